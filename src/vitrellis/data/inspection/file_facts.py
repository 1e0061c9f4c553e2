"""One image file looked at closely: decoded whole, so that damage anywhere in it shows."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
from PIL import Image
from torch import Tensor

from vitrellis.data.sources.decoding import DEEP_GREY, check_is_regular, orientation_of, read_image
from vitrellis.errors import VitrellisError

ProgressCallback = Callable[[int, int], None]

_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "MPO": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "GIF": {".gif"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif", ".hif"},
}
"""The endings of the names of each format's files."""

_UPRIGHT = 1


@dataclass(frozen=True)
class FileFacts:
    """The facts about one file.

    Attributes:
        path: The file.
        num_bytes: Its length.
        digest: The SHA-256 of its bytes, hexadecimal.
        format: The format of its content, such as "JPEG"; None if it is no image.
        mode: Pillow's mode, such as "RGB".
        size: `(H, W)` in pixels as it is stored; None if it is no image.
        frames: The number of pictures in it.
        orientation: Its EXIF orientation, 1 to 8; 1 is upright.
        look: The perceptual hash of its pixels, 64 bits; None if it cannot be read.
        error: The reason why Vitrellis cannot read it, or None.
    """

    path: Path
    num_bytes: int
    digest: str
    format: str | None = None
    mode: str | None = None
    size: tuple[int, int] | None = None
    frames: int = 1
    orientation: int = _UPRIGHT
    look: int | None = None
    error: str | None = None

    @property
    def oddities(self) -> tuple[str, ...]:
        """The kinds of oddity that it has, in words; each can be read all the same."""
        found = []
        usual = _SUFFIXES.get(self.format or "")
        if usual is not None and self.path.suffix.lower() not in usual:
            found.append("named as another format")
        if self.mode in DEEP_GREY | {"I"}:
            found.append("16 bits or more a channel")
        if self.mode == "CMYK":
            found.append("CMYK colours")
        if self.mode in ("P", "PA"):
            found.append("palette")
        if self.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            found.append("transparency")
        if self.frames > 1:
            found.append("several pictures, of which the first is used")
        if self.orientation != _UPRIGHT:
            found.append("turned by EXIF")
        return tuple(found)


def examine(paths: Sequence[Path], progress: ProgressCallback | None = None) -> list[FileFacts]:
    """The facts about files, several at a time.

    Args:
        paths: The files.
        progress: Called with the number of files that are done, and of all files.
    """
    facts: list[FileFacts] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for one in pool.map(_examine, paths):
            facts.append(one)
            if progress is not None:
                progress(len(facts), len(paths))
    return facts


def perceptual_hash(image: Image.Image) -> int:
    """pHash, 64 bits: images that look alike differ in few bits."""
    bits = imagehash.phash(image.convert("L")).hash.ravel()  # 64 booleans
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _examine(path: Path) -> FileFacts:
    try:
        check_is_regular(path)
        content = path.read_bytes()
    except VitrellisError as error:
        return FileFacts(path, 0, "", error=str(error))
    except OSError as error:
        return FileFacts(path, 0, "", error=f"{path}: cannot be read: {error.strerror}")
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return FileFacts(path, 0, digest, error=f"{path}: is empty (0 bytes)")
    if path.suffix.lower() == ".npy":
        return _array(path, len(content), digest)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data and large images
            pixels = read_image(path)  # the same way as training reads it
            with Image.open(path) as image:
                return FileFacts(
                    path,
                    len(content),
                    digest,
                    image.format,
                    image.mode,
                    (image.height, image.width),
                    getattr(image, "n_frames", 1),
                    orientation_of(image),
                    perceptual_hash(pillow_image(pixels)),
                )
    except VitrellisError as error:
        return FileFacts(path, len(content), digest, error=str(error))


def pillow_image(pixels: Tensor) -> Image.Image:
    """A Pillow image of uint8 pixels `(C, H, W)`: in colour with 3 channels, else of the first."""
    if len(pixels) == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return Image.fromarray(pixels[0].numpy())


def _array(path: Path, num_bytes: int, digest: str) -> FileFacts:
    try:
        pixels = read_image(path)
    except VitrellisError as error:
        return FileFacts(path, num_bytes, digest, error=str(error))
    size = (pixels.shape[1], pixels.shape[2])
    look = perceptual_hash(pillow_image(pixels))
    return FileFacts(path, num_bytes, digest, "NPY", f"{len(pixels)} channels", size, look=look)
