"""Every layout, damaged at random: it is read, or one error names what is wrong.

To look for more: `python -m tests.data.sources.test_fuzzed LAYOUT FIRST_SEED NUMBER`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.campaign.findings import OutOfTimeError, time_limit
from tests.data.sources.tiny_layouts import LAYOUTS, Layout
from vitrellis.data.inspection.survey import survey
from vitrellis.data.packing.pack import verify
from vitrellis.data.sources import load_source, recognized
from vitrellis.errors import VitrellisError
from vitrellis.training.display import reading

CASES = 200
SECONDS = 20  # for one case, whose reading takes a fraction of a second
REPOSITORY = Path(__file__).parents[3]
NUMBERS = (b"-1", b"3000000000", b"99999999999999999999999", b"1e999", b"NaN", "\u0663".encode())
NAMES = (
    "x",
    "..",
    "\udce9",
    "a\nb.png",
    "train",
    "metadata.csv",
    "state.json",
    "q.parquet",
    "1.npy",
)


def damage(root: Path, chance: random.Random) -> None:
    """One change of one file, or of the folder around it."""
    places = root.rglob("*") if root.is_dir() else [root]
    files = sorted(path for path in places if path.is_file())
    others = [path for path in files if path.suffix.lower() not in (".png", ".jpg", ".jpeg")]
    if not files:
        return
    file = chance.choice(others if others and chance.random() < 0.6 else files)
    kind = chance.choice((*_CHANGES, "bits", "number", *_MOVES))
    if kind in _CHANGES:
        file.write_bytes(_CHANGES[kind](file.read_bytes(), chance))
    else:
        _MOVES[kind](file, chance.choice(files), chance)


def _truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _bits(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 30)) if content else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwritten(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    middle = chance.randbytes(chance.randrange(64))
    return content[:start] + middle + content[start + len(middle) :]


def _other_number(content: bytes, chance: random.Random) -> bytes:
    digits = [place for place, byte in enumerate(content) if 48 <= byte < 58]
    if not digits:
        return content
    place = chance.choice(digits)
    return content[:place] + chance.choice(NUMBERS) + content[place + 1 :]


def _other_lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    chance.shuffle(lines)
    return b"".join(lines[: chance.randrange(len(lines) + 1)]) + chance.choice(lines)


_CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "bits": _bits,
    "overwritten": _overwritten,
    "number": _other_number,
    "lines": _other_lines,
}


def _remove(file: Path, other: Path, chance: random.Random) -> None:
    file.unlink()


def _rename(file: Path, other: Path, chance: random.Random) -> None:
    goal = file.parent / chance.choice((*NAMES, file.stem + ".png", file.name + ".x"))
    if not goal.exists():
        file.rename(goal)


def _nest(file: Path, other: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.unlink()
    (file / "deeper").mkdir(parents=True)
    (file / "deeper" / file.name).write_bytes(content)


def _swap(file: Path, other: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _link(file: Path, other: Path, chance: random.Random) -> None:
    file.unlink()
    file.symlink_to(chance.choice((file.name, "/nowhere", "..", "/dev/null")))


def _add(file: Path, other: Path, chance: random.Random) -> None:
    name = chance.choice(("x.png", "x.tar", "x.csv", "x.npz", "x.parquet"))
    (file.parent / name).write_bytes(chance.randbytes(chance.randrange(500)))


_MOVES: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "removed": _remove,
    "renamed": _rename,
    "nested": _nest,
    "swapped": _swap,
    "linked": _link,
    "added": _add,
}


def read(layout: Layout) -> int:
    """All that a user's commands do with a dataset before training.

    Returns:
        The number of images of all splits.

    Raises:
        VitrellisError: If anything is wrong with it.
    """
    recognized(layout.root)
    survey(
        layout.source,
        layout.root,
        layout.arguments,
        lambda title: reading(Console(quiet=True), title),
    )
    source = load_source(layout.source, layout.root, args=layout.arguments)
    count = 0
    for split in source.splits.values():
        count += len(split)
        assert int(split.labels.max()) < source.num_classes
        for index in range(len(split)):
            image = split.images[index]
            assert image.shape[0] == source.channels
            assert split.images.size in (None, tuple(image.shape[1:]))
    if (layout.root / "index.json.gz").is_file() or layout.root.suffix == ".lmdb":
        verify(layout.root)
    return count


def case(name: str, seed: int) -> str | None:
    """What is wrong with the way in which a damaged dataset is read; None if nothing is."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "set"
        root.mkdir()
        layout = LAYOUTS[name](root)
        chance = random.Random(f"{name} {seed}")
        for _ in range(chance.choice((1, 1, 2, 3))):
            damage(layout.root, chance)
        try:
            with time_limit(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(layout)
        except VitrellisError as error:
            message = str(error)
            if place not in message:
                return f"names no file: {message}"
        except OutOfTimeError:
            return f"took more than {SECONDS} seconds"
        except Exception:  # noqa: BLE001 - what else may come is what is looked for
            return traceback.format_exc()
    return None


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_undamaged_layout_is_read(name: str, tmp_path: Path) -> None:
    assert read(LAYOUTS[name](tmp_path)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", [0])
@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged_layouts(name: str, first_seed: int) -> None:
    """In a process of its own, because a crash of a library would end this one."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.data.sources.test_fuzzed", name, str(first_seed), str(CASES)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def main(name: str, first_seed: int, number: int) -> int:
    """Prints every case that is read wrongly; their number."""
    faults = 0
    for seed in range(first_seed, first_seed + number):
        sys.stderr.write(f"\r{name} {seed} ")  # the last one, if Python crashes
        sys.stderr.flush()
        fault = case(name, seed)
        if fault is not None:
            faults += 1
            sys.stdout.write(f"{name}, seed {seed}: {fault}\n")
            sys.stdout.flush()
    return faults


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
