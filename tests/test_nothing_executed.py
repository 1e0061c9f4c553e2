"""A payload in every kind of file that comes from others: it is refused, and nothing is executed.

The first test lists the calls of the package that could execute what a file says, so that a new one
is noticed here.
"""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitrellis
from tests.training.tiny import tiny
from vitrellis.data.formats.plain_pickle import read_plain_pickle
from vitrellis.data.sources import load_source
from vitrellis.errors import VitrellisError
from vitrellis.models import check_arguments, create_model
from vitrellis.recipe import load_recipe

PACKAGE = Path(vitrellis.__file__).parent

CALLS = {
    # whose find_class knows plain values only
    ("data/formats/plain_pickle.py", "pickle.Unpickler"),
    (
        "data/formats/plain_pickle.py",
        "_PlainUnpickler(io.BytesIO(content), encoding='bytes').load",
    ),
    ("data/sources/arrays.py", "np.load"),  # allow_pickle=False, as everywhere
    ("data/sources/decoding.py", "np.load"),
    ("export/onnx_writer.py", "onnx.load"),  # of what we have just written; protobuf, no code
    ("export/timm_folder.py", "timm.create_model"),  # of what we have just written
    ("export/torch_program.py", "torch.export.load"),  # of what we have just written
    ("models/support/factory.py", "timm.create_model"),  # arguments are checked
    ("models/support/weights.py", "torch.load"),  # weights_only=True
    ("recipe/yaml.py", "yaml.load"),  # by a SafeLoader
    ("runs/checkpoints.py", "self.fabric.load"),  # weights_only=True
    ("runs/checkpoints.py", "torch.load"),  # weights_only=True
    ("cli/cluster_job.py", "subprocess.run"),  # squeue and scontrol, with the number of the job
    ("experiments/slots.py", "subprocess.Popen"),  # vitrellis train, without a shell
    ("runs/provenance.py", "subprocess.run"),  # git, with fixed words
}
"""The calls that could execute what a file says, and why they do not."""

BUILTINS = {"eval", "exec", "compile", "__import__"}
SUSPECTS = {"load", "loads", "create_model", "Unpickler", "Template", "from_string"}
SUSPECTS |= {"system", "popen", "Popen", "check_output", "check_call", "load_state_dict_from_url"}
HARMLESS = {"json.loads", "tomllib.loads", "image.load"}


def calls_in(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        heads = node.bases if isinstance(node, ast.ClassDef) else ()
        heads = [node.func] if isinstance(node, ast.Call) else heads
        for head in heads:
            name = ast.unparse(head)
            is_suspect = name in BUILTINS or name.rpartition(".")[2] in SUSPECTS
            is_suspect |= name.startswith("subprocess.")
            if is_suspect and name not in HARMLESS:
                found.add(name)
    return found


def test_every_call_that_could_execute_a_file_is_known() -> None:
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in calls_in(path)
    }
    assert {(path, name) for path, name in found if name != "create_model"} == CALLS  # is ours


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def weights(folder: Path, payload: Payload) -> object:
    torch.save({"model": payload}, folder / "weights.pt")
    return create_model("cifar_resnet8", num_classes=3, weights=folder / "weights.pt")


def old_weights(folder: Path, payload: Payload) -> object:
    """The format before PyTorch 1.6, which is a bare pickle."""
    torch.save({"a": payload}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return create_model("cifar_resnet8", num_classes=3, weights=folder / "old.pth")


def recipe(folder: Path, _: Payload) -> object:
    text = f"extends: demo\nname: !!python/object/apply:os.system ['touch {folder}/executed']\n"
    (folder / "evil.yaml").write_text(text)
    return load_recipe(folder / "evil.yaml")


def override(folder: Path, _: Payload) -> object:
    return load_recipe(
        "demo", [f"name=!!python/object/apply:os.system ['touch {folder}/executed']"]
    )


def cifar(folder: Path, payload: Payload) -> object:
    (folder / "cifar-100-python").mkdir()
    for name in ("train", "test", "meta"):
        content = pickle.dumps({b"data": payload}, protocol=2)
        (folder / "cifar-100-python" / name).write_bytes(content)
    return load_source("cifar100", folder)


def bare_pickle(folder: Path, payload: Payload) -> object:
    (folder / "batch").write_bytes(pickle.dumps([payload]))
    return read_plain_pickle(folder / "batch")


def array_image(folder: Path, payload: Payload) -> object:
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (folder / split / kind).mkdir(parents=True)
            np.save(folder / split / kind / "x.npy", np.array([payload]), allow_pickle=True)
    return load_source("folder", folder)


def archive(folder: Path, payload: Payload) -> object:
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload]), allow_pickle=True)
    with zipfile.ZipFile(folder / "set.npz", "w") as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{name}.npy", buffer.getvalue())
    return load_source("arrays", folder / "set.npz")


def timm_checkpoint(folder: Path, payload: Payload) -> object:
    """timm before 1.0.26 unpickles what `checkpoint_path` names."""
    torch.save({"model": payload}, folder / "evil.pt")
    return tiny(folder, model__args={"checkpoint_path": str(folder / "evil.pt")})


DOORS: list[Callable[[Path, Payload], object]] = [
    weights,
    old_weights,
    recipe,
    override,
    cifar,
    bare_pickle,
    array_image,
    archive,
    timm_checkpoint,
]
"""Checkpoints of runs: tests/training/test_survival.py, which has a run."""


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_payload_is_refused_and_not_executed(
    tmp_path: Path, door: Callable[[Path, Payload], Any]
) -> None:
    payload = Payload(tmp_path / "executed")
    with pytest.raises(VitrellisError):
        door(tmp_path, payload)
    assert not payload.marker.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    payload = Payload(tmp_path / "executed")
    pickle.loads(pickle.dumps(payload))
    assert payload.marker.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("checkpoint_path", "not taken from a recipe or a file"),
        ("pretrained_cfg", "not taken from a recipe or a file"),
        ("features_only", "not taken from a recipe or a file"),
        ("num_classes", "the classes of the images decide it"),
        ("img_size", "it has a key of its own, img_size"),
        ("weights", "it has a key of its own, weights"),
    ],
)
def test_arguments_that_are_not_the_models(name: str, hint: str) -> None:
    with pytest.raises(VitrellisError, match=f"model.args: {name} is .*{hint}"):
        check_arguments([name], "model.args")
    check_arguments(["drop_path_rate", "norm_eps", "distillation_head"], "model.args")
