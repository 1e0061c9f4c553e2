"""From grey to colour and back, and how many channels a collection has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitrellis.errors import UsageError, VitrellisError


def luma(images: Tensor) -> Tensor:
    """The grey of colour images, by the integers that Pillow uses for ITU-R 601 luma.

    Args:
        images: uint8 `(..., 3, H, W)`.

    Returns:
        int32 `(..., 1, H, W)` in [0, 255].
    """
    red, green, blue = images.int().split(1, dim=-3)
    return (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16


def to_channels(images: Tensor, channels: int, name: str) -> Tensor:
    """Images with another number of channels: grey repeated, or colour reduced to its luma.

    Args:
        images: uint8 `(..., C, H, W)`.
        channels: Number of channels of the result.
        name: The images' name in the error message.

    Returns:
        uint8 `(..., channels, H, W)`; the same tensor if nothing had to change.

    Raises:
        VitrellisError: If it is neither 1 to 3 nor 3 to 1.
    """
    stored = images.shape[-3]
    if stored == channels:
        return images
    if (stored, channels) == (1, 3):
        return images.repeat_interleave(3, dim=-3)
    if (stored, channels) == (3, 1):
        return luma(images).to(torch.uint8)
    raise VitrellisError(
        f"{name}: has {stored} channels where {channels} are needed; "
        "only 1 can be made 3, and 3 be made 1"
    )


def chosen_channels(examples: Mapping[int, str], wanted: int | None) -> int:
    """The number of channels that is wanted, or the one that suits a whole collection.

    Args:
        examples: For each number of channels that occurs, an image that has it.
        wanted: The number of channels to make of them; None for the one that suits.

    Raises:
        UsageError: If no image can have the number that is wanted.
        VitrellisError: If none is wanted, and images of other numbers of channels are mixed.
    """
    if wanted is None:
        return common_channels(examples)
    if examples and not any(own == wanted or {own, wanted} == {1, 3} for own in examples):
        own, name = next(iter(examples.items()))
        raise UsageError(
            f"input.channels: {wanted}, but {name} has {own} channels; only 1 can be made 3, and 3 "
            "be made 1. Leave the key out to take the images as they are"
        )
    return wanted


def common_channels(examples: Mapping[int, str]) -> int:
    """The number of channels that suits a whole collection.

    Args:
        examples: For each number of channels that occurs, an image that has it.

    Returns:
        That number if there is only one; 3 if grey and colour images are mixed.

    Raises:
        VitrellisError: If images of other numbers of channels are mixed.
    """
    if len(examples) == 1:
        return next(iter(examples))
    if set(examples) == {1, 3}:
        return 3
    (first, one), (second, other) = sorted(examples.items())[-2:]
    raise VitrellisError(
        f"{one} has {first} channels and {other} has {second}; "
        "all images must have as many (grey and colour may be mixed)"
    )
