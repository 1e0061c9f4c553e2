"""What devices can compute."""

from __future__ import annotations

import torch

from vitrellis.errors import UsageError

WITHOUT_FLOAT64 = {"mps"}
"""The types of devices on which torch has no float64: Apple's GPUs."""


def device_of(name: str) -> torch.device:
    """The device that a user names.

    Args:
        name: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.

    Raises:
        UsageError: If there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = torch.device("cpu") if accelerator is None else accelerator
    if name == "auto":
        return there
    if name not in ("cpu", there.type):
        known = "cpu" if there.type == "cpu" else f"cpu or {there.type}"
        raise UsageError(f"--device {name}: torch finds no such device here. Use {known}, or auto")
    return torch.device(name)


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
