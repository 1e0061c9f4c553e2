from __future__ import annotations

import io
import pickle
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from vitrellis.data.sources import image_pixels, read_header, read_image
from vitrellis.data.sources.decoding import decode_image, deep_levels
from vitrellis.errors import VitrellisError

RANDOM = np.random.default_rng(0)
COLOURS: npt.NDArray[np.uint8] = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def as_pixels(path: Path, channels: int | None = None) -> npt.NDArray[np.uint8]:
    """`(H, W, C)`, after checking that the header promised that."""
    image = read_image(path, channels)
    header = read_header(path)
    assert header.size == tuple(image.shape[1:])
    assert image.dtype == torch.uint8
    if channels is None:
        assert header.channels == len(image)
    array: npt.NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return array


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "a.webp", "A.PNG"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, name: str) -> None:
    Image.fromarray(COLOURS).save(tmp_path / name, lossless=True)
    assert np.array_equal(as_pixels(tmp_path / name), COLOURS)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_other_formats_give_what_pillow_gives(tmp_path: Path, name: str, mode: str) -> None:
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert(mode))
    assert np.array_equal(as_pixels(tmp_path / name).squeeze(), expected)


def test_the_contents_count_rather_than_the_name(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(as_pixels(tmp_path / "a.jpg"), COLOURS)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_photos_are_turned_upright(tmp_path: Path, suffix: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", exif=exif)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        upright = as_pixels(tmp_path / f"a.{suffix}")
        assert np.array_equal(upright, expected), f"orientation {orientation}"


TURNED: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What EXIF's orientations ask for. Not `ImageOps`, which has Pillow's mistakes in it."""


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "CMYK", "1"])
def test_every_kind_of_tiff_is_turned_upright(
    tmp_path: Path, mode: str, compression: str | None
) -> None:
    stored = Image.fromarray(COLOURS)
    if mode == "I;16":
        stored = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    stored = stored if mode == "I;16" else stored.convert(mode)
    stored.save(tmp_path / "flat.tif")
    flat = as_pixels(tmp_path / "flat.tif")
    for orientation, turned in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / "a.tif", exif=exif, compression=compression)
        upright = as_pixels(tmp_path / "a.tif")
        assert np.array_equal(upright, turned(flat)), f"orientation {orientation}"


def test_a_damaged_tag_beside_the_orientation_changes_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    Image.fromarray(COLOURS).save(tmp_path / "whole.png", exif=exif)
    content = exif.tobytes()
    resolution = content.index(b"\x01\x1a\x00\x05")  # a fraction, said to be text
    damaged = content[: resolution + 3] + b"\x02" + content[resolution + 4 :]
    Image.fromarray(COLOURS).save(tmp_path / "damaged.png", exif=damaged)
    expected = read_image(tmp_path / "whole.png")
    assert torch.equal(read_image(tmp_path / "damaged.png"), expected)


@pytest.mark.parametrize("exif", [b"Exif\0\0not exif at all", b"Exif\0\0II*\0"])
def test_damaged_exif_data_means_upright(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(as_pixels(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    expected = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(as_pixels(tmp_path / f"a.{suffix}")[:, :, 0], expected)
    assert as_pixels(tmp_path / f"a.{suffix}", 3).shape == (2, 4, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_twelve_bits_in_sixteen(tmp_path: Path, suffix: str) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(deep).save(path)
    assert deep_levels(path) == (0, 4095)
    assert len(read_image(path).unique()) == 17  # of 256
    expected = np.round(deep / 4095 * 255).astype(np.uint8)
    assert np.array_equal(read_image(path, 1, (0, 4095))[0].numpy(), expected)
    cut = read_image(path, 1, (1000, 1255))[0].numpy()
    assert np.array_equal(cut, (deep.astype(int) - 1000).clip(0, 255))


def test_levels_of_eight_bits_are_known(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "a.png")
    assert deep_levels(tmp_path / "a.png") is None


def test_sixteen_bit_grey_with_alpha_is_grey(tmp_path: Path) -> None:
    """The PNG is written by hand, as Pillow cannot."""
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 257 * 20
    alpha = np.full((3, 4), 65535, dtype=np.uint16)
    alpha[0, 1] = 0
    rows = np.stack([grey, alpha], axis=-1).astype(">u2")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        checksum = zlib.crc32(kind + body)
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    (tmp_path / "a.png").write_bytes(content)
    expected = (grey // 257).astype(np.uint8)
    expected[0, 1] = 255  # transparent
    assert np.array_equal(as_pixels(tmp_path / "a.png")[:, :, 0], expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "deep.tif")
    for read in (read_image, read_header):
        with pytest.raises(VitrellisError, match=rf"deep\.tif: has pixels of mode '{mode}'"):
            read(tmp_path / "deep.tif")


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert as_pixels(tmp_path / "a.png").tolist() == [[[9, 8, 7], [255] * 3, [204] * 3]]
    Image.fromarray(rgba[:, :, 2:]).save(tmp_path / "grey.png")
    assert as_pixels(tmp_path / "grey.png")[:, :, 0].tolist() == [[7, 255, 204]]


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name, transparency=0)
        assert as_pixels(tmp_path / name).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_black_and_white_is_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert as_pixels(tmp_path / "a.png").tolist() == [[[255], [0]]]


def test_printing_colours_become_screen_colours(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).convert("CMYK")
    image.save(tmp_path / "a.tif")
    assert np.array_equal(as_pixels(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_channels_can_be_forced(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    grey = np.asarray(Image.fromarray(COLOURS).convert("L"))
    assert np.array_equal(as_pixels(tmp_path / "a.png", 1)[:, :, 0], grey)
    Image.fromarray(grey).save(tmp_path / "b.png")
    assert np.array_equal(as_pixels(tmp_path / "b.png", 3), np.stack([grey] * 3, axis=-1))


def test_a_png_of_numbers_without_a_palette_is_damaged(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    file = tmp_path / "x.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    for channels in (None, 1, 3):
        with pytest.raises(VitrellisError, match=r"x\.png: is damaged \(it has no palette"):
            read_image(file, channels)
    with pytest.raises(VitrellisError, match="no palette"):
        decode_image(file.read_bytes(), None, str(file))
    with pytest.raises(VitrellisError, match="no palette"):
        read_header(file)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp", "a.tif"])
def test_a_palette_of_greys_is_grey(tmp_path: Path, name: str) -> None:
    grey = Image.fromarray(COLOURS).convert("L")
    indexed = grey.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    indexed.save(tmp_path / name)
    assert np.array_equal(as_pixels(tmp_path / name)[:, :, 0], np.asarray(indexed.convert("L")))
    coloured = Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE)
    coloured.save(tmp_path / name)
    assert np.array_equal(as_pixels(tmp_path / name), np.asarray(coloured.convert("RGB")))


def test_a_tiff_with_a_fourth_band_does_not_lose_it_in_silence(tmp_path: Path) -> None:
    Image.new("RGBX", (5, 4)).save(tmp_path / "a.tif")
    for read in (read_image, read_header):
        with pytest.raises(VitrellisError, match=r"a\.tif: has 4 bands, more than"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 2), (4, 5, 7)])
def test_arrays_are_images_of_any_number_of_channels(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    array = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(as_pixels(tmp_path / "a.npy"), array.reshape(4, 5, -1))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), dtype=np.float32),
        np.zeros(4, dtype=np.uint8),
        np.zeros((1, 4, 5, 3), dtype=np.uint8),
        np.zeros((4, 0, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(VitrellisError, match=r"odd\.npy: .*uint8|odd\.npy: is damaged"):
        read_image(tmp_path / "odd.npy")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_an_array_file_is_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    objects = np.array([[Payload(marker)]], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Payload(marker)))
    with (tmp_path / "zip.npy").open("wb") as file:
        np.savez(file, COLOURS)
    for name in ("objects", "pickle", "zip"):
        for read in (read_image, read_header):
            with pytest.raises(VitrellisError, match=rf"{name}\.npy: is damaged"):
                read(tmp_path / f"{name}.npy")
    assert not marker.exists()


def test_a_cut_off_jpeg_has_a_header_and_no_pixels(tmp_path: Path) -> None:
    large = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert read_header(tmp_path / "cut.jpg").size == (64, 64)
    with pytest.raises(VitrellisError, match=r"cut\.jpg: is damaged \(.*truncated"):
        read_image(tmp_path / "cut.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n", b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_text_file_named_png_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.png").write_bytes(content)
    for read in (read_image, read_header):
        with pytest.raises(VitrellisError, match=r"text\.png: is not an image"):
            read(tmp_path / "text.png")


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for read in (read_image, read_header):
        with pytest.raises(VitrellisError, match=r"missing\.png: no such file"):
            read(tmp_path / "missing.png")
        with pytest.raises(VitrellisError, match=r"missing\.npy: no such file"):
            read(tmp_path / "missing.npy")
        with pytest.raises(VitrellisError, match=r"folder\.png: cannot be read"):
            read(tmp_path / "folder.png")


def test_an_image_too_large_to_be_true_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(VitrellisError, match=r"bomb\.png: is damaged .*decompression bomb"):
        read_header(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif", "npy"])
def test_damage_is_read_or_refused_but_never_crashes(tmp_path: Path, suffix: str) -> None:
    dice = random.Random(suffix)
    buffer = io.BytesIO()
    if suffix == "npy":
        np.save(buffer, COLOURS)
    else:
        Image.fromarray(COLOURS).save(
            buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        )
    path = tmp_path / f"a.{suffix}"
    refused = 0
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for _ in range(dice.choice((1, 3, 10))):
            content[dice.randrange(len(content))] = dice.choice((0, 255, dice.randrange(256)))
        if dice.random() < 0.3:
            content = content[: dice.randrange(len(content))]
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_image(path)
            except VitrellisError:
                refused += 1
    assert refused > 10


def test_pillow_images_from_elsewhere() -> None:
    pixels = image_pixels(Image.fromarray(COLOURS), 3, "x")
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), COLOURS)
    with pytest.raises(VitrellisError, match="item 3: has pixels of mode 'F'"):
        image_pixels(Image.new("F", (2, 2)), None, "item 3")
