"""One file of every kind of oddity and damage, written by Pillow and by hand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from vitrellis.data.inspection.file_facts import FileFacts, examine

RAMP = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)


def facts_of(path: Path) -> FileFacts:
    (facts,) = examine([path])
    return facts


def picture(mode: str = "L") -> Image.Image:
    return Image.fromarray(RAMP).convert(mode)


def test_facts_of_an_ordinary_file(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "a.jpg")
    facts = facts_of(tmp_path / "a.jpg")
    assert (facts.format, facts.mode, facts.size) == ("JPEG", "RGB", (40, 60))
    assert facts.num_bytes == (tmp_path / "a.jpg").stat().st_size
    assert facts.oddities == ()
    with Image.open(tmp_path / "a.jpg") as image:
        assert f"{facts.look:016x}" == str(imagehash.phash(image))


def test_oddities_that_can_be_read(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "png.jpg", "PNG")
    picture("CMYK").save(tmp_path / "cmyk.jpg")
    picture("P").save(tmp_path / "palette.png")
    picture("RGBA").save(tmp_path / "transparent.png")
    Image.fromarray(RAMP.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    picture().save(tmp_path / "moving.gif", save_all=True, append_images=[picture().rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.jpg", exif=exif)
    expected = {
        "png.jpg": "named as another format",
        "cmyk.jpg": "CMYK colours",
        "palette.png": "palette",
        "transparent.png": "transparency",
        "deep.png": "16 bits or more a channel",
        "moving.gif": "several pictures, of which the first is used",
        "turned.jpg": "turned by EXIF",
    }
    for name, kind in expected.items():
        facts = facts_of(tmp_path / name)
        assert facts.error is None, name
        assert kind in facts.oddities, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.png: is empty \(0 bytes\)"),
        (b"not an image", r"x\.png: is not an image, whatever its name says"),
        (None, r"x\.png: is damaged"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
            tmp_path / "x.png"
        )
        content = (tmp_path / "x.png").read_bytes()[:2000]  # the header is whole, the rest is not
    (tmp_path / "x.png").write_bytes(content)
    facts = facts_of(tmp_path / "x.png")
    assert facts.error is not None
    assert facts.look is None
    assert re.search(message, facts.error)


def test_a_picture_too_large_to_be_honest(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 400 million pixels, 50 kB
    assert "damaged" in str(facts_of(tmp_path / "bomb.png").error)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 4), np.uint8))
    facts = facts_of(tmp_path / "a.npy")
    assert (facts.format, facts.mode, facts.size) == ("NPY", "4 channels", (5, 6))


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe or a device" in (facts_of(tmp_path / "pipe.png").error or "")
