"""What a user may give `Trained.predict`, and how anything else is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vitrellis.errors import UsageError, VitrellisError

ImageLike = Tensor | Path | str | Image.Image
"""An image: pixels, the path of a file, or a Pillow image."""

_EXPECTED = (
    "should be a tensor (N, C, H, W) of uint8, or a list of images: paths, Pillow images, and "
    "tensors (C, H, W) of uint8"
)


def named_images(
    images: Iterable[ImageLike] | ImageLike, names: Iterable[str] | None
) -> Iterator[tuple[ImageLike, str]]:
    """Each image with its name, one after the other.

    Args:
        images: The images, or a single path or Pillow image.
        names: Their names; by default their paths or numbers.

    Raises:
        UsageError: If these are no images, or the names are not as many.
    """
    given = None if names is None else list(names)
    number = -1
    for number, image in enumerate(_each(images)):
        if given is None:
            yield image, str(image) if isinstance(image, Path | str) else f"image {number}"
        elif number < len(given):
            yield image, given[number]
    if given is not None and len(given) != number + 1:
        raise UsageError(f"names: {len(given)} for {number + 1} images; give one for each")


def _each(images: object) -> Iterable[ImageLike]:
    if isinstance(images, Path | str | Image.Image):
        return [images]
    if isinstance(images, Tensor) and images.ndim != 4:
        one = ". A single image is given as [image]" if images.ndim == 3 else ""
        raise UsageError(f"images: a tensor of shape {tuple(images.shape)}; {_EXPECTED}{one}")
    if isinstance(images, bytes | Mapping) or not isinstance(images, Iterable):
        raise UsageError(f"images: is a {type(images).__name__}; {_EXPECTED}")
    return images


def check_pixels(image: object, channels: int, name: str) -> Tensor:
    """A tensor that is an image.

    Args:
        image: What was given.
        channels: The number of channels that it must have.
        name: Its name, for messages.

    Raises:
        VitrellisError: If it is anything else, or has no pixels.
    """
    if not isinstance(image, Tensor):
        raise VitrellisError(
            f"{name}: is a {type(image).__name__}; should be a path, a Pillow image, or a "
            "tensor (C, H, W) of uint8"
        )
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != channels:
        raise VitrellisError(
            f"{name}: should be uint8 of shape ({channels}, H, W), is {image.dtype} "
            f"of shape {tuple(image.shape)}"
        )
    if image.numel() == 0 or image.is_meta:
        where = " on the device meta" if image.is_meta else ""
        raise VitrellisError(f"{name}: has no pixels: its shape is {tuple(image.shape)}{where}")
    return image
