"""A payload in every kind of file that comes from others, and the call that reads such a file.

`DOORS` lists them; `test_nothing_executed.py` opens each.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs.edited import unsealed
from tests.training.tiny import tiny
from vitrellis.assembly.imported import import_checkpoint
from vitrellis.data.formats.mat import read_mat
from vitrellis.data.formats.plain_pickle import read_plain_pickle
from vitrellis.data.packing.lmdb_file import INDEX_KEY
from vitrellis.data.sources import Source, load_source
from vitrellis.experiments.sweeping import _open_study
from vitrellis.export.onnx_classifier import OnnxClassifier
from vitrellis.models import create_model
from vitrellis.objectives import Needs
from vitrellis.recipe import load_recipe
from vitrellis.runs.checkpoints import read_checkpoint
from vitrellis.runs.checksums import seal_zip, write_sealed_json
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, Trained, load_exported, save_model
from vitrellis.teachers.precomputed import PrecomputedKey, PrecomputedOutputs


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


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


def mat_file(folder: Path, payload: Payload) -> object:
    (folder / "labels.mat").write_bytes(pickle.dumps(payload).ljust(256))
    return read_mat(folder / "labels.mat", "labels")


def mat_element(folder: Path, payload: Payload) -> object:
    """Behind a header that is right, as an array of another kind than numbers."""
    content = pickle.dumps(payload)
    element = struct.pack("<II", 14, len(content)) + content
    (folder / "labels.mat").write_bytes(b" " * 124 + b"\x00\x01IM" + element)
    return read_mat(folder / "labels.mat", "labels")


def shards(folder: Path, members: dict[str, bytes]) -> Source:
    with tarfile.open(folder / "train-000000.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return load_source("webdataset", folder)


def shard_label(folder: Path, payload: Payload) -> object:
    return shards(folder, {"0.png": PNG, "0.cls": pickle.dumps(payload)})


def shard_json(folder: Path, payload: Payload) -> object:
    return shards(folder, {"0.png": PNG, "0.json": pickle.dumps(payload)})


def shard_array(folder: Path, payload: Payload) -> object:
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload]), allow_pickle=True)
    array = buffer.getvalue()
    return shards(folder, {"0.npy": array, "0.cls": b"0", "1.npy": array, "1.cls": b"1"})


def shard_pickle_alone(folder: Path, payload: Payload) -> object:
    content = pickle.dumps(payload)
    return shards(folder, {"0.pyd": content, "0.cls": b"0", "1.pyd": content, "1.cls": b"1"})


def lmdb_file(folder: Path, entries: dict[bytes, bytes]) -> object:
    lmdb = pytest.importorskip("lmdb")
    path = folder / "set.lmdb"
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 20) as made,
        made.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key, value)
    return load_source("lmdb", path)


def lmdb_index(folder: Path, payload: Payload) -> object:
    return lmdb_file(folder, {INDEX_KEY: gzip.compress(pickle.dumps(payload))})


def lmdb_of_others(folder: Path, payload: Payload) -> object:
    """folder2lmdb wraps each value by pyarrow.serialize, which could execute code."""
    content = pickle.dumps(payload)
    return lmdb_file(folder, {b"__keys__": content, b"__len__": content, b"0": content})


def parquet_images(folder: Path, payload: Payload) -> object:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": [{"bytes": pickle.dumps(payload), "path": None}] * 2, "label": [0, 1]}
    parquet.write_table(pyarrow.table(rows), folder / "train-00000-of-00001.parquet")
    return load_source("huggingface", folder)


def arrow_type(folder: Path, payload: Payload) -> object:
    """pyarrow before 14.0.1 unpickled the description of a type that Python had defined."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    about = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(payload),
    }
    kinds = [pyarrow.field("image", pyarrow.binary(), metadata=about)]
    kinds.append(pyarrow.field("label", pyarrow.int64()))
    table = pyarrow.table([[b"x", b"y"], [0, 1]], schema=pyarrow.schema(kinds))
    parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    return load_source("huggingface", folder)


def image_of_others(folder: Path, payload: Payload) -> object:
    model = exported(folder / "model").predict
    (folder / "x.png").write_bytes(pickle.dumps(payload))
    return model(folder / "x.png")


def onnx_file(folder: Path, payload: Payload) -> object:
    (folder / "x.onnx").write_bytes(pickle.dumps(payload))
    return OnnxClassifier(folder / "x.onnx")


def described(folder: Path, payload: Payload, **config: object) -> object:
    """A folder in timm's format, whose weights are a payload under each of the usual names."""
    (folder / "there").mkdir()
    torch.save({"model": payload}, folder / "there" / "pytorch_model.bin")
    torch.save({"model": payload}, folder / "there" / "evil.pt")
    values = {"architecture": "cifar_resnet8", "num_classes": 3} | config
    (folder / "there" / "config.json").write_text(json.dumps(values))
    return create_model(f"local-dir:{folder / 'there'}", num_classes=3, pretrained=True)


def described_arguments(folder: Path, payload: Payload) -> object:
    evil = str(folder / "there" / "evil.pt")
    return described(folder, payload, model_args={"checkpoint_path": evil})


def described_weights(folder: Path, payload: Payload) -> object:
    """timm follows `file` and `url`, and `custom_load` makes it call what a model has for it."""
    evil = str(folder / "there" / "evil.pt")
    cfg = {"file": evil, "url": f"file://{evil}", "custom_load": True, "state_dict": evil}
    return described(folder, payload, pretrained_cfg=cfg, **cfg)


def imported(folder: Path, payload: Payload) -> object:
    torch.save({"model": payload}, folder / "c.pth")
    out = folder / "run"
    return import_checkpoint(folder / "c.pth", source="dhvt", model="dhvt_micro_patch4", out=out)


def exported(folder: Path, **changes: object) -> Trained:
    """A model as runs have it; its description is changed."""
    save_model(
        create_model("cifar_resnet8", num_classes=3),
        folder,
        architecture="cifar_resnet8",
        num_classes=3,
        model_args={},
        class_names=["0", "1", "2"],
        preprocessing=Preprocessing((28, 28), 3, (0.5,) * 3, (0.5,) * 3, "bicubic"),
    )
    config = unsealed(folder / "config.json")
    config["vitrellis"] |= changes
    write_sealed_json(folder / "config.json", config)
    return load_exported(folder)


def exported_arguments(folder: Path, payload: Payload) -> object:
    torch.save({"model": payload}, folder / "evil.pt")
    return exported(folder / "model", model_args={"checkpoint_path": str(folder / "evil.pt")})


def taught_by(folder: Path, there: Path) -> object:
    return tiny(folder, teacher={"run": str(there)}, objective={"kd": {}})


def teachers_weights(folder: Path, payload: Payload) -> object:
    """A run of others as the teacher: pickles are not even tried as its weights."""
    there = folder / "there"
    exported(there / "model")
    (there / "recipe.yaml").write_text("extends: demo-alone\n")
    torch.save({"model": payload}, there / "model" / "model.safetensors")
    return taught_by(folder, there)


def stored_features(folder: Path, payload: Payload) -> object:
    """A store of an offline teacher's outputs, whose logits are objects."""
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    key = PrecomputedKey("teacher", "images", "shown", (), "float32")
    store = PrecomputedOutputs(folder, key, len(images))
    store._write("logits", torch.zeros(2, 3), 0)
    store._save(2)
    np.save(folder / "logits.npy", np.array([payload, payload]), allow_pickle=True)
    store = PrecomputedOutputs(folder, key, len(images))
    return store.read(torch.arange(2), Needs(teacher_logits=True))


def checkpoint(folder: Path, payload: Payload) -> object:
    torch.save({"guided": payload}, folder / "best.ckpt")
    return read_checkpoint(folder / "best.ckpt")


def resumed_checkpoint(folder: Path, payload: Payload) -> object:
    """The checkpoint from which a run goes on."""

    class Stop(Exception):
        pass

    def stop(_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        tiny(folder, on_epoch_end=stop)
    file = folder / "run" / "checkpoints" / "last.ckpt"
    torch.save({"guided": payload}, file)
    seal_zip(file)  # which anybody can
    return tiny(folder)


def results(folder: Path, payload: Payload) -> object:
    (folder / "results.json").write_bytes(pickle.dumps(payload))
    return RunDirectory(folder).read_results()


def metrics(folder: Path, payload: Payload) -> object:
    (folder / "metrics.jsonl").write_bytes(pickle.dumps(payload, protocol=0) + b"\n" + b"{}\n")
    return RunDirectory(folder).read_metrics()


def study(folder: Path, payload: Payload) -> object:
    """Optuna keeps values as JSON; a pickle as text is one more text."""
    optuna = pytest.importorskip("optuna")
    made = optuna.create_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}")
    made.set_user_attr("vitrellis", pickle.dumps(payload, protocol=0).decode("ascii"))
    recipe = load_recipe("demo-alone")
    return _open_study(folder, recipe, [], "none", is_parallel=False)


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
    mat_file,
    mat_element,
    shard_label,
    shard_json,
    shard_array,
    shard_pickle_alone,
    lmdb_index,
    lmdb_of_others,
    parquet_images,
    arrow_type,
    image_of_others,
    onnx_file,
    described_arguments,
    described_weights,
    imported,
    exported_arguments,
    teachers_weights,
    stored_features,
    checkpoint,
    resumed_checkpoint,
    results,
    metrics,
    study,
]
"""The ways by which a file of others gets in. What is only passed over is tested below."""
