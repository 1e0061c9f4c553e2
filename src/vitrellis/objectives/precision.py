"""Losses are computed in float32 even where the networks run in half precision.

Autocast would hand the terms half-precision maps and logits, and run matrix products among them in
half precision, whose seven bits are too few for a difference of two nearly equal maps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_float32(tensor: Tensor) -> Tensor:
    """Converts half precision to float32; float64 stays, so that gradients can be checked.

    Args:
        tensor: Any shape.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Switches autocast off on the tensor's device, so that operations keep their precision."""
    return torch.autocast(tensor.device.type, enabled=False)
