"""Losses are computed in float32 even where the networks run in half precision.

Autocast would hand the terms half-precision maps and logits, and run matrix products among them in
half precision, whose seven bits are too few for a difference of two nearly equal maps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are, so that gradients can be checked.

    Args:
        tensor: Any shape.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Switches autocast off where `tensor` is: operations keep the precision of their inputs."""
    return torch.autocast(tensor.device.type, enabled=False)
