"""What devices can compute."""

from __future__ import annotations

import torch

WITHOUT_FLOAT64 = {"mps"}
"""The types of devices on which torch has no float64: Apple's GPUs."""


def has_float64(device: torch.device) -> bool:
    """Whether torch has float64 on a device."""
    return device.type not in WITHOUT_FLOAT64


def longest_float(device: torch.device) -> torch.dtype:
    """The type in which sums over many numbers are kept on a device."""
    return torch.float64 if has_float64(device) else torch.float32


def device_for_images(device: torch.device) -> torch.device:
    """The device on which images are prepared for a model on `device`.

    Augmentation computes in float64 where its results have to be the same on all devices. Without
    it, the processor prepares the images.
    """
    return device if has_float64(device) else torch.device("cpu")
