"""A payload in every kind of file that comes from others: it is refused, and nothing is executed.

The first test lists the calls of the package that could execute what a file says, so that a new one
is noticed here.
"""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vitrellis
from tests.doors import DOORS, PNG, Payload, shards
from vitrellis.data.sources import load_source
from vitrellis.errors import VitrellisError
from vitrellis.models import check_arguments

PACKAGE = Path(vitrellis.__file__).parent

CALLS = {
    # whose find_class knows plain values only
    ("data/formats/plain_pickle.py", "pickle.Unpickler"),
    (
        "data/formats/plain_pickle.py",
        "_PlainUnpickler(io.BytesIO(content), encoding='bytes').load",
    ),
    ("data/sources/arrays.py", "np.load"),  # allow_pickle=False, as everywhere
    ("data/sources/arrays.py", "np.lib.format.open_memmap"),  # an object array cannot be mapped
    ("data/sources/decoding.py", "np.lib.format.open_memmap"),
    ("teachers/precomputed.py", "np.lib.format.open_memmap"),
    ("data/pixel_file.py", "np.memmap"),  # bytes
    ("data/sources/decoding.py", "np.load"),
    ("data/packing/storage.py", "fsspec.core.url_to_fs"),  # of data.args.url; chooses a reader
    ("data/sources/names.py", "importlib.import_module"),  # of our own files, as below
    ("models/support/factory.py", "importlib.import_module"),
    ("public_names.py", "importlib.import_module"),
    ("export/onnx_classifier.py", "onnxruntime.InferenceSession"),  # without libraries of others
    ("export/onnx_writer.py", "onnx.load"),  # of what we have just written; protobuf, no code
    ("export/timm_folder.py", "timm.create_model"),  # of what we have just written
    ("export/torch_program.py", "torch.export.load"),  # of what we have just written
    ("models/support/factory.py", "timm.create_model"),  # arguments are checked
    ("models/support/weights.py", "torch.load"),  # weights_only=True
    ("recipe/yaml.py", "yaml.load"),  # by a SafeLoader
    ("runs/checkpoints.py", "self.fabric.load"),  # weights_only=True
    ("runs/checkpoints.py", "torch.load"),  # weights_only=True
    ("experiments/sweeping.py", "library.create_study"),  # SQLite with values as JSON
    ("assembly/sharding.py", "torch.load"),  # weights_only, as runs/checkpoints.py says
    ("models/support/refusals.py", "timm.create_model"),  # on no device, the same arguments
    ("cli/cluster_job.py", "subprocess.run"),  # squeue and scontrol, with the number of the job
    ("experiments/slots.py", "subprocess.Popen"),  # vitrellis train, without a shell
    (
        "experiments/slurm_array.py",
        "subprocess.run",
    ),  # sbatch, squeue and scancel; names are quoted
    ("runs/provenance.py", "subprocess.run"),  # git, with fixed words
}
"""The calls that could execute what a file says, and why they do not."""

BUILTINS = {"eval", "exec", "compile", "__import__"}
SUSPECTS = {"load", "loads", "create_model", "Unpickler", "Template", "from_string"}
SUSPECTS |= {"open_memmap", "memmap", "import_module", "InferenceSession", "url_to_fs"}
SUSPECTS |= {"create_study", "load_study", "load_workbook", "read_pickle", "run_path", "run_module"}
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


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_payload_is_refused_and_not_executed(
    tmp_path: Path, door: Callable[[Path, Payload], Any]
) -> None:
    payload = Payload(tmp_path / "executed")
    # not by a checksum, or it would not come to be read; a name for the error would keep files open
    with pytest.raises(VitrellisError, match=r"(?s)^(?!.*another checksum)"):
        door(tmp_path, payload)
    assert not payload.marker.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pyd", ".pth", ".ten", ".mp", ".npz"])
def test_members_of_shards_that_webdataset_would_decode_are_passed_over(
    tmp_path: Path, suffix: str
) -> None:
    payload = Payload(tmp_path / "executed")
    members = {"0.png": PNG, "0.cls": b"0", f"0{suffix}": pickle.dumps(payload)}
    members |= {"1.png": PNG, "1.cls": b"1"}
    source = shards(tmp_path, members)
    assert source.train.images[0].shape == (3, 2, 2)
    assert not payload.marker.exists()


def test_code_beside_data_is_passed_over(tmp_path: Path) -> None:
    """A script of a dataset, and of a model, as the Hub's libraries would import it."""
    marker = tmp_path / "executed"
    for kind in ("a", "b"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "0.png").write_bytes(PNG)
    for name in ("set.py", "__init__.py", "dataset.py", "modeling.py", "conftest.py"):
        (tmp_path / "set" / name).write_text(f"open({str(marker)!r}, 'w')")
    assert len(load_source("folder", tmp_path / "set").train) == 2
    assert not marker.exists()


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
