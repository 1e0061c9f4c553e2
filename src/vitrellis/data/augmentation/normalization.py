"""From grey levels to numbers of zero mean and unit deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitrellis.data.augmentation.crops import cached_parts


class Normalize:
    """Grey levels in [0, 255] to zero mean and unit deviation, per channel.

    Args:
        mean: Of images in [0, 1].
        std: Likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (255 * deviation)).float()
        self._shift = (-torch.tensor(mean).double().view(1, -1, 1, 1) / deviation).float()

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 of the same shape."""
        out = torch.empty(images.shape, device=images.device)
        for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
            self.into(out[part], out[part].copy_(images[part]))
        return out

    def into(self, out: Tensor, levels: Tensor) -> None:
        """Normalises float grey levels into `out`, both `(B, C, H, W)`."""
        assert out.shape[1] == self._scale.shape[1], "as many means as channels"
        self._scale, self._shift = self._scale.to(out.device), self._shift.to(out.device)
        # two roundings wherever a pixel lies; a fused one would depend on its place
        torch.mul(levels, self._scale, out=out)
        out.add_(self._shift)
