"""Files of a run with changed bytes: an error or the right content, never something else.

`VITRELLIS_SEED` changes the damage that the slow campaign does.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrellis
from tests.runs.edited import unsealed
from vitrellis.errors import VitrellisError
from vitrellis.objectives import Needs
from vitrellis.recipe import load_recipe, recipe_from
from vitrellis.runs.checksums import check_zip, read_sealed_json
from vitrellis.runs.directory import RunDirectory, find_run
from vitrellis.runs.exported import load_exported
from vitrellis.runs.marker import own_files, read_marker
from vitrellis.runs.verification import accept_changes, verify_run
from vitrellis.teachers.precomputed import PrecomputedKey, PrecomputedOutputs, check_store

Damage = Callable[[bytearray, random.Random], None]
RECIPE: dict[str, Any] = {
    "name": "student",
    "data": {"val_fraction": 0.25},
    "input": {"img_size": 28},
    "augmentation": {"crop": "padded", "padding": 2},
    "model": {"name": "vit_micro_patch7_28"},
    "training": {"epochs": 2, "batch_size": 12, "ema": 0.9},
    "machine": {"accelerator": "cpu", "threads": 1},
    "objective": {"cross_entropy": {}, "kd": {}},
    "teacher": {"model": "cifar_resnet8", "offline": True},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_whole(folder)
    return folder


def write_whole(folder: Path) -> None:
    """Writes a run of every kind of file, and its teacher's stored outputs."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (24, 3, 28, 28), generator=generator, dtype=torch.uint8)
    source = vitrellis.from_tensors(pixels, torch.arange(24) % 3)
    vitrellis.train(recipe_from(RECIPE), source=source, out=folder / "run")
    (store,) = (folder / "features").iterdir()
    store.rename(folder / "store")


def flip(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def replace(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] = draw.randrange(256)


def cut(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def remove(content: bytearray, draw: random.Random) -> None:
    first = draw.randrange(len(content))
    del content[first : first + draw.randint(1, 64)]


def erase(content: bytearray, draw: random.Random) -> None:
    first = draw.randrange(len(content))
    count = min(draw.randint(1, 512), len(content) - first)
    content[first : first + count] = bytes(count)


UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError)
DAMAGES: list[Damage] = [flip, flip, flip, replace, cut, remove, erase]


class Refused(NamedTuple):
    """What a reader said of a file that it did not take."""

    message: str


def value_of(file: Path, run: RunDirectory, whole: Path) -> object:
    """What the file says, in a form that can be compared, or why it was refused."""
    try:
        return _value_of(file, run, whole)
    except VitrellisError as error:
        return Refused(str(error))
    except UNREADABLE as error:  # the trainer answers these: see `RunWriter.load_last`
        assert file.suffix == ".ckpt"
        return Refused(f"{file}: {error}")


def _value_of(file: Path, run: RunDirectory, whole: Path) -> object:
    """Reads a file as the commands do."""
    if file.parent.name == "store":
        return stored(file.parent, unsealed(whole / "store" / "features.json"))
    if file.name in ("config.json", "model.safetensors"):
        trained = load_exported(file.parent)
        state = trained.model.state_dict()
        return trained.architecture, trained.class_names, trained.preprocessing, flat(state)
    if file.suffix == ".ckpt":
        check_zip(file)
        return flat(torch.load(file, weights_only=True))
    readers: dict[str, Callable[[], object]] = {
        "vitrellis-run.json": lambda: read_marker(run),
        "recipe.yaml": lambda: load_recipe(find_run(run.path).recipe_file),
        "data.json": run.read_data,
        "results.json": lambda: run.read_results().to_json(),
        "metrics.jsonl": run.read_metrics,
        "provenance.json": lambda: read_sealed_json(file),
    }
    return readers[file.name]()


def stored(folder: Path, about: dict[str, Any]) -> object:
    key = PrecomputedKey(about["teacher"], about["images"], about["shown"], (), "float32")
    outputs = PrecomputedOutputs(folder, key, about["count"])
    if not outputs.is_complete:
        return Refused(f"{folder}: is filled again")
    read = outputs.read(torch.arange(about["count"]), Needs(teacher_logits=True))
    assert read.logits is not None
    return flat(read.logits)


def flat(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return [(key, flat(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return repr(value)


def damage(whole: Path, folder: Path, trials: int, seed: int) -> dict[str, int]:
    """Damages a file of a copy at a time, and counts what became of it."""
    draw = random.Random(seed)
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    run = RunDirectory(folder / "run")
    files = [file for file in own_files(run) if file.parent.name != "tensorboard"]
    files += [file for file in sorted((folder / "store").iterdir()) if file.name != ".lock"]
    right = {file: value_of(file, run, whole) for file in files}
    ends = {"refused": 0, "the right content": 0, "left out": 0}
    for number in range(trials):
        file = draw.choice(files)
        before = file.read_bytes()
        content = bytearray(before)
        draw.choice(DAMAGES)(content, draw)
        file.write_bytes(content)
        value, is_good = value_of(file, run, whole), verify_of(file, run)
        where = f"{file}, trial {number} of seed {seed}"
        if isinstance(value, Refused):
            assert str(folder) in value.message, where
            ends["refused"] += 1
        elif value == right[file]:
            ends["the right content"] += 1
        else:  # lines that a kill may have cut off; `verify` counts them
            rows = right[file]
            assert isinstance(value, list), where
            assert isinstance(rows, list), where
            assert value == rows[: len(value)], where
            assert not is_good, where
            ends["left out"] += 1
        file.write_bytes(before)
    assert all(value_of(file, run, whole) == right[file] for file in files)
    return ends


def verify_of(file: Path, run: RunDirectory) -> bool:
    """Whether `vitrellis verify` is content."""
    if file.parent.name != "store":
        return verify_run(run).is_good
    try:
        check_store(file.parent)
    except VitrellisError:
        return False
    return True


def test_what_is_damaged_is_not_used(whole: Path, tmp_path: Path) -> None:
    ends = damage(whole, tmp_path / "copy", trials=70, seed=0)
    assert ends["refused"] > 40


@pytest.mark.slow
def test_two_thousand_damages(whole: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("VITRELLIS_SEED", "1"))
    ends = damage(whole, tmp_path / "copy", trials=2000, seed=seed)
    print(ends)  # noqa: T201
    assert ends["refused"] > 1500


def test_every_byte_of_the_small_files(whole: Path, tmp_path: Path) -> None:
    """Each byte is changed once, in the files that decide what is read at all."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = RunDirectory(tmp_path / "run")
    for file in (run.marker_file, run.data_file):
        before, right = file.read_bytes(), value_of(file, run, whole)
        for at in range(0, len(before), 3):
            content = bytearray(before)
            content[at] ^= 0x11
            file.write_bytes(content)
            value = value_of(file, run, whole)
            assert value == right or str(file) in str(value)
        file.write_bytes(before)


def test_a_run_is_verified(whole: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(whole / "run", run.path)
    (run.path / "notes.txt").write_text("mine")
    verified = verify_run(run)
    assert {file.state for file in verified.files} == {"ok"}
    assert verified.others == ("notes.txt",)
    files = {file.file for file in verified.files}
    assert files == {str(file.relative_to(run.path)) for file in own_files(run)}
    (run.last_model / "model.safetensors").unlink()
    (events,) = (run.path / "tensorboard").iterdir()
    content = bytearray(events.read_bytes())
    content[len(content) // 2] ^= 4
    events.write_bytes(content)
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text(lines[0])
    bad = {file.file: file.state for file in verify_run(run).files if file.state != "ok"}
    assert bad == {
        "last/model.safetensors": "missing",
        "metrics.jsonl": "damaged",
        f"tensorboard/{events.name}": "damaged",
    }


def test_weights_that_another_program_wrote(whole: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(whole / "run", run.path)
    run.marker_file.unlink()  # a run of an earlier version
    states = {
        run.best_model / "model.safetensors": 1.0,
        run.last_model / "model.safetensors": float("nan"),
    }
    for file, value in states.items():
        weights = load_file(file)
        weights["head.weight"] = weights["head.weight"].clone().fill_(value)
        save_file(weights, file)
    (run.last_model / "config.json").write_text(
        json.dumps(unsealed(run.last_model / "config.json"))
    )
    found = {file.file: file.detail for file in verify_run(run).files if file.state == "damaged"}
    assert found.keys() >= {"model/model.safetensors", "last/model.safetensors"}
    assert "another program wrote it later" in found["model/model.safetensors"]
    assert "head.weight (" in found["last/model.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "vitrellis-run.json",
        "recipe.yaml",
        "data.json",
        "results.json",
        "provenance.json",
        "metrics.jsonl",
        "model/config.json",
        "checkpoints/last.ckpt",
    ],
)
def test_a_file_that_has_lost_its_checksum_is_not_used(
    whole: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = RunDirectory(tmp_path / "run")
    file = run.path / name
    kind = b"crc32" if file.suffix == ".jsonl" else b"sha256"
    before, _, after = file.read_bytes().rpartition(kind)
    file.write_bytes(before + kind.replace(b"2", b"3") + after)
    value = value_of(file, run, whole)
    assert isinstance(value, Refused)
    assert "it has lost the checksum that it was written with" in value.message
    assert not verify_run(run).is_good


def test_a_recipe_that_is_cut_off_at_a_line_is_not_used(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    lines = run.recipe_file.read_text().splitlines(keepends=True)
    run.recipe_file.write_text("".join(lines[: lines.index("machine:\n")]))
    with pytest.raises(VitrellisError, match=r"recipe\.yaml: damaged: it has lost the checksum"):
        find_run(run.path)


def test_files_that_were_changed_on_purpose_are_accepted(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.recipe_file.write_text(f"# mine\n{run.recipe_file.read_text()}description: later\n")
    values = unsealed(run.data_file)
    run.data_file.write_text(json.dumps(values | {"class_names": ["a", "b", "c"]}))
    rows = run.metrics_file.read_text().replace('"lr"', '"lr" ')
    run.metrics_file.write_text(rows.replace(', "crc32"', ', "crc_32"', 1))
    assert accept_changes(run) == ["data.json", "metrics.jsonl", "recipe.yaml"]
    assert verify_run(run).is_good
    assert run.read_data().class_names == ("a", "b", "c")
    lines = run.recipe_file.read_text().splitlines()
    assert lines[0] == "# mine"
    assert lines[-2] == "description: later"  # though it stood behind the checksum
    assert accept_changes(run) == []
    run.data_file.write_text("[1]")
    with pytest.raises(VitrellisError, match=r"data\.json: should be a mapping"):
        accept_changes(run)
    run.data_file.unlink()
    run.metrics_file.write_text("[1]\n")
    with pytest.raises(VitrellisError, match=r"metrics\.jsonl: every line should be a mapping"):
        accept_changes(run)


def test_a_sealed_archive_is_read_by_others(whole: Path) -> None:
    """The checksum is a comment of the archive, which Python's own reader knows."""
    file = RunDirectory(whole / "run").last_checkpoint
    assert check_zip(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256 ")
    assert torch.load(file, weights_only=True)["progress"]["epoch"] == 2


def test_rows_of_a_store_have_checksums(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "store", tmp_path / "store")
    assert check_store(tmp_path / "store") == 18
    rows = np.lib.format.open_memmap(tmp_path / "store" / "logits.npy", mode="r+")
    rows[7, 1] += 1e-3
    rows.flush()
    with pytest.raises(VitrellisError, match=r"logits\.npy: damaged: .* image 7 "):
        check_store(tmp_path / "store")
