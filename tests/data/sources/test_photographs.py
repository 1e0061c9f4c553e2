from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vitrellis.data.sources import photographs
from vitrellis.data.sources.decoding import decode_image
from vitrellis.data.sources.photographs import decode_photograph, turned
from vitrellis.errors import VitrellisError

ORIENTATION = 0x0112


def picture(mode: str = "RGB", size: tuple[int, int] = (53, 37)) -> Image.Image:
    """Smooth in one half and noise in the other."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    noise = Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    smooth.paste(noise.crop((0, 0, size[0] // 2, size[1])))
    return smooth.convert(mode)


def encoded(image: Image.Image, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **settings)
    return stream.getvalue()


def by_pillow(content: bytes) -> Tensor:
    """Upright, `(C, H, W)`."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    pixels = np.array(image if image.mode == "L" else image.convert("RGB"))
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("size", [(53, 37), (8, 16), (1, 1), (17, 3)])
@pytest.mark.parametrize(
    "settings",
    [
        {"quality": 60, "subsampling": 0},
        {"quality": 95, "subsampling": 1},
        {"quality": 75, "subsampling": 2},
        {"progressive": True},
        {"optimize": True, "quality": 100},
        {"restart_marker_rows": 1},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(
    mode: str, settings: dict[str, object], size: tuple[int, int]
) -> None:
    content = encoded(picture(mode, size), **settings)
    pixels = decode_photograph(opened(content))
    assert pixels is not None
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, by_pillow(content))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_by_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(picture(), exif=exif.tobytes())
    expected = by_pillow(content)
    pixels = decode_photograph(opened(content))
    assert pixels is not None
    assert torch.equal(turned(pixels, orientation), expected)
    assert torch.equal(decode_image(content, None, "photograph"), expected)


def test_an_orientation_in_xmp_alone_is_seen() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    content = encoded(picture(), xmp=xmp)
    assert "exif" not in opened(content).info
    assert decode_image(content, None, "photograph").shape == (3, 53, 37)
    assert torch.equal(decode_image(content, None, "photograph"), by_pillow(content))


@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
def test_other_modes_and_formats_are_left_to_pillow(mode: str) -> None:
    stream = io.BytesIO()
    picture(mode).save(stream, "JPEG" if mode == "CMYK" else "PNG")
    assert decode_photograph(opened(stream.getvalue())) is None
    assert torch.equal(decode_image(stream.getvalue(), 3, "it"), by_pillow(stream.getvalue()))


def test_what_simplejpeg_refuses_is_read_by_pillow() -> None:
    whole = encoded(picture())
    end = whole.rindex(b"\xff\xd9")
    content = whole[:end] + bytes(7) + whole[end:]  # superfluous bytes before the end
    assert decode_photograph(opened(content)) is None
    assert torch.equal(decode_image(content, None, "it"), by_pillow(content))


def damaged() -> list[bytes]:
    """Photographs with bytes changed, or cut off."""
    generator = np.random.default_rng(1)
    whole = [
        encoded(picture(mode), progressive=progressive, subsampling=subsampling)
        for mode, progressive, subsampling in itertools.product(("RGB", "L"), (0, 1), (0, 2))
    ]
    contents = []
    for number in range(400):
        content = bytearray(whole[number % len(whole)])
        if number % 4 == 0:
            content = content[: generator.integers(2, len(content))]
        else:
            for _ in range(generator.integers(1, 5)):
                content[generator.integers(2, len(content))] = generator.integers(256)
        contents.append(bytes(content))
    return contents


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_are_read_and_refused_as_by_pillow(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = damaged()
    mine = [outcome(content) for content in contents]
    by_simplejpeg = [
        not isinstance(found, str) and decode_photograph(opened(content)) is not None
        for content, found in zip(contents, mine, strict=True)
    ]
    assert 20 < sum(by_simplejpeg) < 380
    monkeypatch.setattr(photographs, "_COLOURS", {})
    for content, found in zip(contents, mine, strict=True):
        expected = outcome(content)
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert torch.equal(found, expected)
    assert capfd.readouterr() == ("", "")


def outcome(content: bytes) -> Tensor | str:
    """The pixels, or the error."""
    try:
        return decode_image(content, None, "it")
    except VitrellisError as error:
        return str(error)
