"""Files are whole or untouched, whatever fails while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from vitrellis.data.formats.json_files import read_json
from vitrellis.errors import VitrellisError
from vitrellis.runs.atomic import atomic_write, check_can_be_written, write_json

FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from vitrellis.runs import atomic
{imports}
weights = {{"a": torch.ones(100_000)}}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    atomic.atomic_write(Path(sys.argv[1]), lambda path: {write})
except atomic.VitrellisError as error:
    print(error)
"""
"""Its files may not grow beyond 100,000 bytes; what it writes takes 400,000."""

WRITERS = {
    "safetensors": ("from safetensors.torch import save", "path.write_bytes(save(weights))"),
    "torch": ("", "torch.save(weights, path)"),
    "bytes": ("", "path.write_bytes(bytes(400_000))"),
}


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    atomic_write(path, lambda temporary: temporary.write_text("old"))
    assert path.read_text() == "old"
    atomic_write(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_of_the_system_leaves_the_old_file(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "weights"
    path.write_text("old")
    imports, write = WRITERS[writer]
    program = FULL_DISK.format(imports=imports, write=write)
    ended = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(f"could not write {path}: ")
    assert "make room" in ended.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_in_the_middle(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(VitrellisError, match=r"a\.json: No space left on device"):
        atomic_write(path, full)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), TypeError("x")])
def test_other_errors_pass_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    def broken(temporary: Path) -> None:
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        atomic_write(tmp_path / "a", broken)
    assert not list(tmp_path.iterdir())


def file_in_the_way(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "a.txt"


def folder_in_the_way(folder: Path) -> Path:
    (folder / "taken").mkdir()
    return folder / "taken"


@pytest.mark.parametrize(
    ("place", "says"),
    [(file_in_the_way, "could not write {path}: "), (folder_in_the_way, "{path}: is a folder")],
)
def test_a_place_that_cannot_be_written(
    tmp_path: Path, place: Callable[[Path], Path], says: str
) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VitrellisError, match=says.format(path=path)):
        atomic_write(path, lambda temporary: temporary.write_text("new"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a" * 252, "could not write .*: File name too long"),
        ("new/deeper/" + "a" * 252, "could not write .*: File name too long"),
        ("file/a.txt", "could not write .*: (Not a directory|.* is no folder)"),
        (".", "is a folder"),
        ("/dev/null", "is a device or a pipe"),
        ("new/deeper/a.txt", None),
        ("file", None),
    ],
)
def test_what_cannot_be_written_is_known_beforehand(
    tmp_path: Path, path: str, says: str | None
) -> None:
    (tmp_path / "file").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    if says is None:
        check_can_be_written(tmp_path / path)
    else:
        with pytest.raises(VitrellisError, match=says):
            check_can_be_written(tmp_path / path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        shutil.rmtree(tmp_path)
        temporary.write_text("new")

    with pytest.raises(VitrellisError, match="No such file or directory"):
        atomic_write(tmp_path / "a", write)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_without_nan(tmp_path: Path, value: float) -> None:
    """Python's own writer writes NaN and Infinity, which other readers of JSON refuse."""
    path = tmp_path / "a.json"
    write_json(path, {"best": {"test": [1.0, {"nll": 2.0}]}})
    before = path.read_text()
    with pytest.raises(VitrellisError, match=rf"a\.json: .*best\.test\[1\]\.nll is {value}"):
        write_json(path, {"best": {"test": [1.0, {"nll": value}]}})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_json_with_nan_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"top1": NaN}')
    with pytest.raises(VitrellisError, match=r"a\.json: is not JSON.*NaN"):
        read_json(tmp_path / "a.json")


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """What it leads to is replaced; the link, and whatever else it is used for, stays."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("old")
    for name, target in (("link", "disk/a.txt"), ("new", "disk/b.txt")):
        (tmp_path / name).symlink_to(target)
        atomic_write(tmp_path / name, lambda temporary: temporary.write_text("new"))
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["a.txt", "b.txt"]


def test_a_pipe_and_a_device_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(VitrellisError, match="is a device or a pipe"):
            atomic_write(path, lambda temporary: temporary.write_text("new"))
        assert path.exists()
        assert not path.is_file()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        weights = {"a": torch.ones(2)}
        atomic_write(tmp_path / "weights", lambda path: path.write_bytes(save(weights)))
        atomic_write(tmp_path / "text", lambda path: path.write_text("new"))
    finally:
        os.umask(before)
    for name in ("weights", "text"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
