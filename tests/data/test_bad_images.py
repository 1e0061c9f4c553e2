"""Images that cannot be read: all named in one error, or left out as if they were not there."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.command import run_here
from vitrellis.data.bad_images import Sharing, check_images, without_bad_images
from vitrellis.data.packing.pack import pack
from vitrellis.data.source import CheckedImages, Source
from vitrellis.data.sources import from_tensors, load_source
from vitrellis.errors import VitrellisError

BAD = ("train/a/02.png", "train/b/00.png", "val/a/0.png", "test/b/1.png")
QUICK = ["input.img_size=28", "training.epochs=2", "schedule.warmup_epochs=0"]
QUICK += ["model.name=vit_micro_patch7_28", "training.batch_size=8", "machine.workers=0"]


def photos(root: Path, *, torn: bool) -> Path:
    """A folder of three splits; those in `BAD` are cut off behind their header, or removed."""
    for split, count in {"train": 12, "val": 3, "test": 3}.items():
        for kind in "ab":
            (root / split / kind).mkdir(parents=True)
            for n in range(count):
                seed = 1000 * (kind == "b") + 10 * n + len(split)
                pixels = np.random.default_rng(seed).integers(0, 256, (28, 28), np.uint8)
                name = f"{n:02}.png" if split == "train" else f"{n}.png"
                Image.fromarray(pixels).save(root / split / kind / name)
    for name in BAD:
        file = root / name
        content = file.read_bytes()
        file.unlink()
        if torn:
            file.write_bytes(content[: len(content) // 2])
    return root


def pixels_of(source: Source) -> dict[str, list[bytes]]:
    return {
        name: [split.images[n].numpy().tobytes() for n in range(len(split))]
        for name, split in source.splits.items()
    }


def test_the_source_is_that_without_the_files(tmp_path: Path) -> None:
    whole = load_source("folder", photos(tmp_path / "whole", torn=False))
    torn = load_source("folder", photos(tmp_path / "torn", torn=True), keep_bad=True)
    kept = without_bad_images(torn, greatest_fraction=0.2)
    assert pixels_of(kept) == pixels_of(whole)
    for name, split in whole.splits.items():
        assert torch.equal(kept.splits[name].labels, split.labels)
    assert (
        "4 of 36 images cannot be read and are left out (2 train, 1 val, 1 test)" in kept.notes[0]
    )
    assert kept.checked_images is not None
    assert [one.name for one in kept.checked_images.bad] == [
        str(tmp_path / "torn" / n) for n in BAD
    ]


def test_a_clean_source_is_unchanged(tmp_path: Path) -> None:
    source = load_source("folder", photos(tmp_path, torn=False))
    kept = without_bad_images(source, greatest_fraction=0)
    assert (kept.fingerprint(), kept.notes) == (source.fingerprint(), ())
    assert kept.checked_images is not None
    assert kept.checked_images.bad == ()


def test_the_limit(tmp_path: Path) -> None:
    torn = load_source("folder", photos(tmp_path, torn=True), keep_bad=True)
    without_bad_images(torn, greatest_fraction=3.01 / 36)  # rounded up to 4
    with pytest.raises(
        VitrellisError, match=r"4 of 36 images .*max_bad_fraction=0\.05 allows 2:\n"
    ):
        without_bad_images(torn, greatest_fraction=0.05)


def test_a_class_must_keep_an_image(tmp_path: Path) -> None:
    root = photos(tmp_path, torn=False)
    for file in (root / "train/b").iterdir():
        file.write_text("no image")
    source = load_source("folder", root, keep_bad=True)
    with pytest.raises(VitrellisError, match="no training image of 'b'"):
        without_bad_images(source, greatest_fraction=0.5)


def test_an_earlier_check_counts_while_the_files_are_the_same(tmp_path: Path) -> None:
    root = photos(tmp_path, torn=True)
    torn = load_source("folder", root, keep_bad=True)
    known = check_images(torn)
    calls: list[int] = []
    without_bad_images(
        torn, greatest_fraction=1, known=known, progress=lambda done, total: calls.append(done)
    )
    assert not calls
    shutil.copy(root / "train/a/00.png", root / "train/a/02.png")
    mended = load_source("folder", root, keep_bad=True)
    kept = without_bad_images(
        mended, greatest_fraction=1, known=known, progress=lambda done, total: calls.append(done)
    )
    assert calls == list(range(1, 37))
    assert len(kept.train) == 23


@pytest.mark.parametrize("is_known_to", [(), (1,), (0, 1, 2)])
def test_processes_share_the_reading(tmp_path: Path, is_known_to: tuple[int, ...]) -> None:
    """Each reads a third; and if one of them does not know the result, all read."""
    torn = load_source("folder", photos(tmp_path, torn=True), keep_bad=True)
    alone = check_images(torn)
    calls: list[list[int]] = [[], [], []]
    values: list[object] = [None] * 3
    barrier = threading.Barrier(3, timeout=60)

    def check(rank: int) -> CheckedImages | None:
        def gather(value: object) -> list[object]:
            barrier.wait()
            values[rank] = value
            barrier.wait()
            return list(values)

        return without_bad_images(
            torn,
            greatest_fraction=1,
            known=alone if rank in is_known_to else None,
            progress=lambda done, total: calls[rank].append(total),
            sharing=Sharing(rank, 3, gather),
        ).checked_images

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(check, range(3))) == [alone] * 3
    assert len(alone.bad) == len(BAD)
    expected = [] if is_known_to == (0, 1, 2) else [12] * 12
    assert calls == [expected] * 3


def test_other_containers(tmp_path: Path) -> None:
    pixels = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    in_memory = from_tensors(pixels, torch.tensor([0, 1, 0, 1]))
    assert check_images(in_memory).bad == ()
    pack(load_source("folder", photos(tmp_path / "whole", torn=False)), tmp_path / "s", form="tar")
    (shard,) = (tmp_path / "s").glob("train*.tar")
    content = bytearray(shard.read_bytes())
    start = content.index(b"IDAT") + 20  # of the first image
    content[start : start + 200] = bytes(200)
    shard.write_bytes(content)
    (bad,) = check_images(load_source("webdataset", tmp_path / "s")).bad
    assert (bad.split, bad.index) == ("train", 0)
    assert "is damaged" in bad.reason


def test_bad_images_of_shards_that_others_wrote(tmp_path: Path) -> None:
    """The first images of such shards are decoded when they are opened."""
    pack(load_source("folder", photos(tmp_path / "whole", torn=False)), tmp_path / "s", form="tar")
    (tmp_path / "s/index.json.gz").unlink()
    (shard,) = (tmp_path / "s").glob("train*.tar")
    content = bytearray(shard.read_bytes())
    start = content.index(b"IDAT") + 20
    content[start : start + 200] = bytes(200)
    shard.write_bytes(content)
    with pytest.raises(
        VitrellisError, match=r"000000000\.png: is damaged .* leaves such images out"
    ):
        load_source("webdataset", tmp_path / "s")
    torn = load_source("webdataset", tmp_path / "s", keep_bad=True)
    kept = without_bad_images(torn, greatest_fraction=0.01)
    assert len(kept.train) == len(torn.train) - 1
    assert kept.channels == 1


def test_damaged_images_of_16_bits_are_all_named(tmp_path: Path) -> None:
    """Their levels are looked for before training, for which they are decoded."""
    for n in range(8):
        file = tmp_path / "photos" / "ab"[n % 2] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(n).integers(0, 65536, (28, 28), np.uint16)
        Image.fromarray(levels).save(file)
        if n in (3, 6):
            file.write_bytes(file.read_bytes()[:900])
    said = train(tmp_path / "photos", tmp_path / "run", code=1)
    assert "2 of 8 images cannot be read:" in said
    assert all(f"{n}.png: is damaged" in said for n in (3, 6))


def test_missing_files_of_a_list_are_bad_images(tmp_path: Path) -> None:
    root = photos(tmp_path, torn=False)
    names = sorted(path.relative_to(root).as_posix() for path in (root / "train").rglob("*.png"))
    (root / "train.txt").write_text("".join(f"{n} {int('/b/' in n)}\n" for n in names))
    (root / names[3]).unlink()
    with pytest.raises(VitrellisError, match=r"no such file\. data\.on_bad_image=skip leaves"):
        load_source("lists", root)
    kept = without_bad_images(load_source("lists", root, keep_bad=True), greatest_fraction=0.1)
    assert len(kept.train) == len(names) - 1


def train(root: Path, out: Path, *words: str, code: int = 0) -> str:
    named = [f"data.root={root}", *QUICK, *words, "--out", str(out)]
    ended = run_here("train", "photos-alone", *named, code=code)
    return " ".join((ended.out + ended.err).split())


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_run_is_that_without_the_files(tmp_path: Path, cache: str) -> None:
    skip = ["data.on_bad_image=skip", "data.max_bad_fraction=0.2", f"input.cache={cache}"]
    train(photos(tmp_path / "whole", torn=False), tmp_path / "a", f"input.cache={cache}")
    said = train(photos(tmp_path / "torn", torn=True), tmp_path / "b", *skip)
    assert "4 of 36 images cannot be read and are left out (2 train, 1 val, 1 test)" in said
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    listed = json.loads((tmp_path / "b/data.json").read_text())["checked_images"]["bad"]
    assert [one["name"] for one in listed] == [str(tmp_path / "torn" / name) for name in BAD]
    assert "is damaged" in listed[0]["reason"]
    figures = [
        json.loads(run_here("eval", str(tmp_path / run), "--json").out) | {"run": ""}
        for run in "ab"
    ]
    assert figures[0] == figures[1]
    assert "5 test images" in run_here("eval", str(tmp_path / "b")).out


def test_resuming_does_not_read_all_images_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = ["data.on_bad_image=skip", "data.max_bad_fraction=0.2"]
    root = photos(tmp_path / "torn", torn=True)
    train(root, tmp_path / "run", *skip)
    before = weights(tmp_path / "run")
    (tmp_path / "run/results.json").unlink()

    def forbidden(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr("vitrellis.data.bad_images.check_images", forbidden)
        assert "continues in epoch 3" in train(root, tmp_path / "run", *skip)
        run_here("eval", str(tmp_path / "run"))
    assert weights(tmp_path / "run") == before
    shutil.copy(root / "train/a/00.png", root / "train/a/02.png")
    (tmp_path / "run/results.json").unlink()
    assert "was trained on other images" in train(root, tmp_path / "run", *skip, code=2)


@pytest.mark.parametrize("cache", ["true", "false"])
def test_by_default_one_error_names_all(tmp_path: Path, cache: str) -> None:
    root = photos(tmp_path / "torn", torn=True)
    said = train(root, tmp_path / "run", f"input.cache={cache}", code=1)
    assert "4 of 36 images cannot be read:" in said
    assert all(f"{root / name}: is damaged" in said for name in BAD)
    assert said.endswith("data.on_bad_image=skip leaves such images out")


def test_one_error_names_those_with_a_bad_header_and_those_that_are_torn(tmp_path: Path) -> None:
    root = photos(tmp_path / "torn", torn=True)
    (root / "train/a/05.png").write_text("no image")
    said = train(root, tmp_path / "run", code=1)
    assert "5 of 36 images cannot be read:" in said
    assert all(f"{root / name}: is damaged" in said for name in BAD)
    assert f"{root / 'train/a/05.png'}: is not an image" in said


def test_an_error_names_ten_and_counts_all(tmp_path: Path) -> None:
    root = photos(tmp_path, torn=False)
    for file in sorted((root / "train/a").iterdir()):
        file.write_text("no image")
    with pytest.raises(VitrellisError) as caught:
        load_source("folder", root)
    lines = str(caught.value).splitlines()
    assert lines[0] == "11 of 32 images cannot be read:"
    assert len([line for line in lines if "is not an image" in line]) == 10
    assert lines[11] == "  and 1 more; vitrellis data inspect FOLDER --json names all"
