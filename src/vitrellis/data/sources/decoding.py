"""One image file: its header, and its pixels as a tensor.

Pillow decodes, and simplejpeg most JPEG files, to the same pixels (`photographs.py`). `.npy` arrays
`(H, W)` or `(H, W, C)` of uint8 stand for images with any number of channels. Photos are turned
upright as their EXIF data says (in a PNG, only if it precedes the pixels, because finding it
elsewhere means decoding them). Transparent parts become white. 16-bit grey is scaled to 8 bits,
from a range of levels that can be named (data of 10 or 12 bits need it). Of animations and
multi-page files, the first picture is read. A TIFF with more bands than colours is refused, because
Pillow would drop them.
"""

from __future__ import annotations

import io
import stat
import struct
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from vitrellis.data.channels import to_channels
from vitrellis.data.sources.phone_formats import PHONE_SUFFIXES, missing_library, phone_formats
from vitrellis.data.sources.photographs import decode_photograph, turned
from vitrellis.errors import VitrellisError

IMAGE_SUFFIXES = PHONE_SUFFIXES | {
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".npy")
}
"""The endings of image files' names, in lower case."""

# Named, so that a file posing as an image never reaches a format that Pillow hands to a program
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
_BEGINNING = 12  # bytes that tell a format
_GREY = frozenset({"1", "L", "LA"})
DEEP_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of grey images with 16 bits."""
_COLOUR = frozenset({"RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr"})
_ORIENTATION_TAG = 0x0112
_WIDTH_TAG, _HEIGHT_TAG, _BANDS_TAG = 0x0100, 0x0101, 0x0115
# Not ImageOps.exif_transpose: it writes the EXIF data anew, and so fails on photos in which some
# other tag is damaged (on 29 of 3,180 whose EXIF data was damaged at random)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    RuntimeError,  # of AVIF files
    MemoryError,  # for arrays as large as a damaged header says
    Image.DecompressionBombError,
)
"""The errors that Pillow's and numpy's readers raise on damaged files, found by damaging files."""


class Header(NamedTuple):
    """Facts about an image that are known before its pixels are decoded."""

    size: tuple[int, int]
    """`(H, W)`, upright."""
    channels: int
    """Channels of the stored image: 1 for grey, 3 for colour, or those of an array."""


def read_header(path: Path) -> Header:
    """Size and channels of an image file, without decoding its pixels.

    Raises:
        VitrellisError: If it is missing, or no image.
    """
    with _naming(path):
        if path.suffix.lower() == ".npy":
            height, width, channels = _open_array(path).shape
            return Header((height, width), channels)
        with _opened(path) as image:
            return Header(_upright_size(image), _own_channels(image, str(path)))


def decode_header(content: bytes, name: str) -> Header:
    """Size and channels of an image file that is in memory, without decoding its pixels.

    Args:
        content: The bytes of the file; an array if they begin as `.npy` files do.
        name: The image's name in an error message.

    Raises:
        VitrellisError: If it is no image.
    """
    with _naming(Path(name), content[:_BEGINNING]):
        if content.startswith(np.lib.format.MAGIC_PREFIX):
            array = np.load(io.BytesIO(content), allow_pickle=False)
            height, width, channels = _as_image(array, Path(name)).shape
            return Header((height, width), channels)
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return Header(_upright_size(image), _own_channels(image, name))


def deep_levels(path: Path) -> tuple[int, int] | None:
    """The lowest and the highest level of a 16-bit grey image file; None for any other file.

    Raises:
        VitrellisError: If it is missing, no image, or damaged.
    """
    if path.suffix.lower() == ".npy":
        return None
    try:
        with _opened(path) as image:
            if not _is_deep(image):
                return None
            levels = np.asarray(image)
            return int(levels.min()), int(levels.max())
    except DAMAGE as error:
        raise _unreadable(path, error) from None


def read_image(
    path: Path, channels: int | None = None, value_range: tuple[int, int] | None = None
) -> Tensor:
    """The pixels of an image file, upright.

    Args:
        path: The file.
        channels: Number of channels to return; the image's own number if None.
        value_range: The levels of 16-bit grey that become black and white; levels outside are cut
            off. None for 0 and 65,535.

    Returns:
        uint8 `(C, H, W)`; in memory the channels of a pixel may be side by side.

    Raises:
        VitrellisError: If it is missing, no image, damaged, or cannot have so many channels.
    """
    with _naming(path):
        if path.suffix.lower() == ".npy":
            pixels = torch.from_numpy(np.array(_open_array(path)))  # (H, W, C)
            pixels = pixels.permute(2, 0, 1).contiguous()  # (C, H, W)
            return pixels if channels is None else to_channels(pixels, channels, str(path))
        with _opened(path) as image:
            return _file_pixels(image, channels, str(path), value_range)


def decode_image(content: bytes, channels: int | None, name: str) -> Tensor:
    """The pixels of an image file that is in memory, as `read_image` reads it.

    Args:
        content: The bytes of the file; an array if they begin as `.npy` files do.
        channels: Number of channels to return; the image's own number if None.
        name: The image's name in an error message.

    Returns:
        uint8 `(C, H, W)`.

    Raises:
        VitrellisError: If it is no image, damaged, or cannot have so many channels.
    """
    with _naming(Path(name), content[:_BEGINNING]):
        if content.startswith(np.lib.format.MAGIC_PREFIX):
            array = np.load(io.BytesIO(content), allow_pickle=False)
            pixels = torch.from_numpy(np.array(_as_image(array, Path(name)))).permute(2, 0, 1)
            return to_channels(pixels.contiguous(), channels or len(pixels), name)
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return _file_pixels(image, channels, name, None)


def _formats() -> tuple[str, ...]:
    return (*_FORMATS, *phone_formats())


def _file_pixels(
    image: Image.Image, channels: int | None, name: str, value_range: tuple[int, int] | None
) -> Tensor:
    own = _own_channels(image, name)
    photograph = decode_photograph(image)
    if photograph is None:
        return _pixels(_upright(image), own, channels, name, value_range)
    pixels = turned(photograph, orientation_of(image))
    return pixels if channels is None else to_channels(pixels, channels, name)


def image_pixels(image: Image.Image, channels: int | None, name: str) -> Tensor:
    """The pixels of a Pillow image.

    Args:
        image: In any mode that files commonly have.
        channels: Number of channels to return; the image's own number if None.
        name: The image's name in an error message.

    Returns:
        uint8 `(C, H, W)`.

    Raises:
        VitrellisError: If its mode has no 8-bit meaning, or it cannot have so many channels.
    """
    return _pixels(image, _own_channels(image, name), channels, name, None)


def upright_pixels(image: Image.Image, channels: int, name: str) -> Tensor:
    """The pixels of a Pillow image, turned as its EXIF data says.

    Args:
        image: In any mode that files commonly have.
        channels: Number of channels to return.
        name: The image's name in an error message.

    Returns:
        uint8 `(C, H, W)`.

    Raises:
        VitrellisError: If its mode has no 8-bit meaning, it cannot have so many channels, or its
            file is damaged.
    """
    with _naming(Path(name), b""):
        return _pixels(_upright(image), _own_channels(image, name), channels, name, None)


def _pixels(
    image: Image.Image,
    num_channels: int,
    channels: int | None,
    name: str,
    value_range: tuple[int, int] | None,
) -> Tensor:
    if _is_deep(image):
        low, high = value_range or (0, 65535)
        deep = np.asarray(image).astype(np.int64).clip(low, high) - low  # (H, W)
        width = high - low
        array = ((deep * 255 + width // 2) // width).astype(np.uint8)
    elif image.mode in ("LA", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        array = np.array(_on_white(image).convert("L" if num_channels == 1 else "RGB"))
    else:
        array = np.array(image.convert("L" if num_channels == 1 else "RGB"))
    pixels = torch.from_numpy(array.reshape(*array.shape[:2], num_channels))  # (H, W, C)
    pixels = pixels.permute(2, 0, 1)  # (C, H, W)
    return pixels if channels is None else to_channels(pixels, channels, name)


def check_is_regular(path: Path) -> None:
    """Refuses pipes, sockets and devices: reading one may wait for ever, or never end.

    Raises:
        VitrellisError: If it is one of these.
        OSError: If there is no such file, or it may not be looked at.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise VitrellisError(f"{path}: is a pipe or a device and not an image file; remove it")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    check_is_regular(path)
    # as a stream: of a path, Pillow maps uncompressed TIFF files into memory with the size that
    # they have when they are upright, which mixes up the pixels of those that lie on their side
    with path.open("rb") as stream, Image.open(stream, formats=_formats()) as image:
        yield image


def _open_array(path: Path) -> npt.NDArray[np.uint8]:
    """The array in a `.npy` file, `(H, W, C)`, mapped rather than read; never a pickle."""
    check_is_regular(path)
    return _as_image(np.lib.format.open_memmap(path, mode="r"), path)


def _as_image(array: npt.NDArray[Any], path: Path) -> npt.NDArray[np.uint8]:
    """`(H, W, C)`, if the array is an image."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise VitrellisError(
            f"{path}: holds {array.dtype} of shape {array.shape}; "
            "an image is uint8 of shape (height, width) or (height, width, channels)"
        )
    return array


def _own_channels(image: Image.Image, name: str) -> int:
    if isinstance(image, TiffImageFile):
        bands = image.tag_v2.get(_BANDS_TAG, 1)
        if bands > len(image.getbands()):
            raise VitrellisError(
                f"{name}: has {bands} bands, more than can be read from a TIFF file; save it as "
                "a uint8 .npy array (height, width, channels), or leave bands out"
            )
    if image.mode in _GREY or _is_deep(image):
        return 1
    if image.format == "PNG" and image.mode == "RGBA" and _is_stored_as_grey_alpha(image):
        return 1
    if image.mode in _COLOUR:
        return 1 if image.mode == "P" and _is_grey_palette(image, name) else 3
    raise VitrellisError(
        f"{name}: has pixels of mode {image.mode!r}, whose range is not known; "
        "save it with 8 bits a channel, or as a uint8 .npy array (height, width, channels)"
    )


def _is_deep(image: Image.Image) -> bool:
    # Pillow reads a grey 16-bit PNG as "I" before version 11; other "I" have no known range
    return image.mode in DEEP_GREY or (image.mode == "I" and image.format == "PNG")


def _is_stored_as_grey_alpha(image: Image.Image) -> bool:
    """Whether it has 16 bits of grey and alpha, which Pillow makes colours of when it decodes."""
    return any("LA" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _is_grey_palette(image: Image.Image, name: str) -> bool:
    if image.palette is None:
        raise VitrellisError(f"{name}: is damaged (it has no palette); remove it or replace it")
    layout, colours = image.palette.getdata()
    if layout == "RGB;L":
        third = len(colours) // 3
        return colours[:third] == colours[third : 2 * third] == colours[2 * third :]
    step = len(layout)
    return colours[0::step] == colours[1::step] == colours[2::step]


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _upright(image: Image.Image) -> Image.Image:
    if isinstance(image, TiffImageFile):
        image.load()  # Pillow turns these itself, and then forgets their orientation
    turn = _UPRIGHT.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """`(H, W)`."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whose size is turned already, in some versions
        width, height = image.tag_v2[_WIDTH_TAG], image.tag_v2[_HEIGHT_TAG]
    return (width, height) if orientation_of(image) >= 5 else (height, width)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none, or damaged EXIF data."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # known without asking Pillow, which takes a tenth of the time of decoding
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError):
        return 1
    return value if value in _UPRIGHT else 1


@contextmanager
def _naming(path: Path, beginning: bytes | None = None) -> Iterator[None]:
    """Says what is wrong with a file, whose first bytes are read unless they are given."""
    try:
        yield
    except VitrellisError:
        raise
    except DAMAGE as error:
        raise _unreadable(path, error, beginning) from None


def _unreadable(path: Path, error: Exception, beginning: bytes | None = None) -> VitrellisError:
    if isinstance(error, FileNotFoundError):
        return VitrellisError(f"{path}: no such file")
    if isinstance(error, OSError) and error.errno is not None:
        return VitrellisError(f"{path}: cannot be read: {error.strerror}")
    if isinstance(error, UnidentifiedImageError):
        if beginning is None:
            with path.open("rb") as file:
                beginning = file.read(_BEGINNING)
        needed = missing_library(beginning)
        if needed is not None:
            return VitrellisError(f"{path}: {needed}")
        return VitrellisError(
            f"{path}: is not an image, whatever its name says; remove it or replace it"
        )
    reason = str(error) or type(error).__name__
    return VitrellisError(f"{path}: is damaged ({reason}); remove it or replace it")
