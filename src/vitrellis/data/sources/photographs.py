"""JPEG photographs by simplejpeg: Pillow's pixels, in two thirds of the time.

Both call libjpeg-turbo, here with the same settings. What simplejpeg refuses, such as files with
damage that can be passed over, is left to Pillow, which reads it or says what is wrong.
`benchmarks/decoding.py` compares the two, and others.
"""

from __future__ import annotations

import simplejpeg
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor

_COLOURS = {"L": "GRAY", "RGB": "RGB"}
"""simplejpeg's names of Pillow's modes in which both have the same pixels."""
# for each EXIF orientation: whether rows become columns, and the dimensions to mirror afterwards
_TURNS: dict[int, tuple[bool, list[int]]] = {
    1: (False, []),
    2: (False, [2]),
    3: (False, [1, 2]),
    4: (False, [1]),
    5: (True, []),
    6: (True, [2]),
    7: (True, [1, 2]),
    8: (True, [1]),
}


def decode_photograph(image: Image.Image) -> Tensor | None:
    """The pixels of a JPEG file, as they lie in it.

    Args:
        image: The file, opened by Pillow, which knows its mode and has refused it if it is too
            large; not decoded yet.

    Returns:
        uint8 `(C, H, W)` of one channel or three, with the channels of a pixel side by side in
        memory; None if Pillow must decode it: another format or mode, or one that simplejpeg
        refuses.
    """
    if not isinstance(image, ImageFile) or image.format != "JPEG" or image.mode not in _COLOURS:
        return None
    if image.fp is None:  # it is decoded already
        return None
    image.fp.seek(0)
    try:
        pixels = simplejpeg.decode_jpeg(image.fp.read(), _COLOURS[image.mode])  # (H, W, C)
    except ValueError:
        return None
    is_same_image = pixels.shape[:2] == (image.height, image.width)
    return torch.from_numpy(pixels).permute(2, 0, 1) if is_same_image else None


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """An upright image.

    Args:
        pixels: `(C, H, W)`.
        orientation: As in EXIF data, 1 to 8.

    Returns:
        `(C, H, W)`, or `(C, W, H)` from 5 on.
    """
    is_transposed, mirrored = _TURNS[orientation]
    pixels = pixels.mT if is_transposed else pixels
    return pixels.flip(mirrored) if mirrored else pixels
