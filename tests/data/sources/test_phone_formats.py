"""HEIC and AVIF are read as Pillow and its plugin read them; without these, a message says so."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrellis.data.inspection.file_facts import examine
from vitrellis.data.sources import load_source, phone_formats, read_header, read_image
from vitrellis.data.sources.decoding import decode_header, decode_image
from vitrellis.errors import VitrellisError

COLOURS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
LOSSLESS = {"quality": -1, "chroma": 444}


def write(path: Path, **settings: object) -> Path:
    phone_formats.phone_formats()
    kind = "AVIF" if path.suffix == ".avif" else "HEIF"
    options = {} if kind == "AVIF" else LOSSLESS
    Image.fromarray(COLOURS).save(path, kind, **(options | settings))
    return path


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    phone_formats.phone_formats.cache_clear()
    yield
    phone_formats.phone_formats.cache_clear()


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.avif", "heic-named-as.jpg"])
def test_photos_of_phones_are_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(read_image(path), expected)
    assert read_header(path) == ((24, 36), 3)
    content = path.read_bytes()
    assert torch.equal(decode_image(content, None, name), expected)
    assert decode_header(content, name) == ((24, 36), 3)
    if not name.endswith(".avif"):
        written = torch.from_numpy(COLOURS).permute(2, 0, 1)
        assert (expected.int() - written.int()).abs().max() <= 2


@pytest.mark.parametrize("name", ["a.heic", "a.avif"])
def test_they_are_turned_upright(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    turned = write(tmp_path / name, exif=exif.tobytes())
    upright = read_image(turned)
    assert upright.shape == (3, 36, 24)
    assert read_header(turned).size == (36, 24)
    plain = read_image(write(tmp_path / f"plain-{name}"))
    assert torch.equal(upright, plain.rot90(-1, (1, 2)))


def test_a_folder_of_them_and_its_inspection(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / f"class-{number % 2}"
        folder.mkdir(exist_ok=True)
        write(folder / f"{number}.{('heic', 'avif', 'heic')[number // 2]}")
    source = load_source("folder", tmp_path)
    assert len(source.train) == 6
    assert all(source.train.images[i].shape == (3, 24, 36) for i in range(6))
    facts = examine(sorted(tmp_path.rglob("*.heic")))
    assert [(each.format, each.error, each.oddities) for each in facts] == [("HEIF", None, ())] * 4


@pytest.mark.parametrize(
    ("name", "advice"), [("a.heic", "pip install 'vitrellis[heic]'"), ("a.avif", "Pillow 11.3")]
)
def test_a_message_names_what_is_missing(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, advice: str
) -> None:
    path = write(tmp_path / name)
    content = path.read_bytes()
    request.getfixturevalue("without_libraries")
    for read in (
        lambda: read_image(path),
        lambda: read_header(path),
        lambda: decode_image(content, None, name),
        lambda: decode_header(content, name),
    ):
        with pytest.raises(VitrellisError, match=f"{name}: is a photo in the format") as caught:
            read()
        assert advice in str(caught.value)
    (tmp_path / "b.heic").write_bytes(b"no photo at all, whatever the name")
    with pytest.raises(VitrellisError, match="is not an image"):
        read_image(tmp_path / "b.heic")


@pytest.mark.parametrize("name", ["a.heic", "a.avif"])
def test_damaged_files_raise_nothing_else(tmp_path: Path, name: str) -> None:
    content = write(tmp_path / name).read_bytes()
    numbers = random.Random(0)
    path = tmp_path / f"damaged-{name}"
    refused = read = 0
    for attempt in range(60):
        damaged = bytearray(content[: numbers.randrange(len(content))] if attempt % 3 else content)
        for _ in range(min(4, len(damaged))):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        path.write_bytes(damaged)
        with suppress(VitrellisError):
            read_header(path)
        try:
            assert read_image(path).shape[0] == 3
            read += 1
        except VitrellisError:
            refused += 1
    assert (refused + read, refused > 20) == (60, True)  # a cut file is never whole
