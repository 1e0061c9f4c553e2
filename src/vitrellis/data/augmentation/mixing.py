"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019), drawn for each sample.

How we differ from the usual code: each sample draws its own share and box; its partner is the next
image of the epoch's random order, whether it is in the batch or not (`vitrellis.data.loader`), in
another view than the batch's own. The result then depends on (seed, epoch, sample) alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrellis.data.randomness import beta, integers, uniform


def mixup(
    images: Tensor, targets: Tensor, partner_images: Tensor, partner_targets: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor]:
    """`lam` times each sample plus `1 - lam` times its partner.

    Args:
        images: `(B, C, H, W)`.
        targets: `(B, K)` class probabilities.
        partner_images: `(B, C, H, W)`.
        partner_targets: `(B, K)`.
        lam: `(B,)` in [0, 1], λ in the paper.
    """
    share = lam.view(-1, 1, 1, 1)
    mixed = images * share + partner_images * (1 - share)
    return mixed, _mix_targets(targets, partner_targets, lam)


def cutmix(
    images: Tensor,
    targets: Tensor,
    partner_images: Tensor,
    partner_targets: Tensor,
    lam: Tensor,
    centre_xy: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pastes a box of its partner into each sample, and mixes targets by area.

    The box has the relative sides `sqrt(1 - lam)`, goes from half of its size (rounded down) before
    the centre to as far behind it, and is clipped to the image, as in the published code.

    Args:
        images: `(B, C, H, W)`.
        targets: `(B, K)` class probabilities.
        partner_images: `(B, C, H, W)`.
        partner_targets: `(B, K)`.
        lam: `(B,)` in [0, 1], λ in the paper.
        centre_xy: `(B, 2)` int64, column and row of the box's centre.
    """
    height, width = images.shape[-2:]
    side = torch.sqrt(1 - lam.double())
    half_width, half_height = (width * side).long() // 2, (height * side).long() // 2
    x, y = centre_xy.unbind(dim=1)
    left, right = (x - half_width).clamp(0, width), (x + half_width).clamp(0, width)
    top, bottom = (y - half_height).clamp(0, height), (y + half_height).clamp(0, height)
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    in_rows = (row >= top[:, None]) & (row < bottom[:, None])  # (B, H)
    in_columns = (column >= left[:, None]) & (column < right[:, None])  # (B, W)
    box = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (B, 1, H, W)
    area = (right - left) * (bottom - top)
    share = (1 - area.double() / (height * width)).to(lam.dtype)
    return torch.where(box, partner_images, images), _mix_targets(targets, partner_targets, share)


class Mix:
    """Mixup, CutMix or neither, decided for each sample.

    Args:
        mixup: Alpha of mixup's Beta distribution, 0 for none.
        cutmix: Alpha of CutMix's, 0 for none.
        switch: Probability of CutMix where both are on.
        probability: Probability that a sample is mixed at all.
    """

    def __init__(
        self,
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.switch = switch if mixup > 0 and cutmix > 0 else float(cutmix > 0)
        self.probability = probability

    @property
    def active(self) -> bool:
        """True if samples are ever mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0

    def is_mixed(self, keys: Tensor) -> Tensor:
        """True for the samples that are mixed, `(B,)` bool.

        Args:
            keys: `(B,)` int64 keys of the samples.
        """
        return uniform(keys, "mix", 1).squeeze(1) < self.probability

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        partner_images: Tensor,
        partner_targets: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mixes every sample with its partner, by mixup or by CutMix.

        Args:
            images: `(B, C, H, W)`.
            targets: `(B, K)` class probabilities.
            partner_images: `(B, C, H, W)`.
            partner_targets: `(B, K)`.
            keys: `(B,)` of the samples; best on the CPU, whatever the images are on.
        """
        keys, device = keys.cpu(), images.device
        is_cut = uniform(keys, "mix-switch", 1).squeeze(1) < self.switch
        mixed, soft = torch.empty_like(images), torch.empty_like(targets)
        rows = (~is_cut).nonzero().squeeze(1)
        if len(rows):
            lam = beta(keys[rows], "mixup", self.mixup).to(device)
            rows = rows.to(device)
            both = (images[rows], targets[rows], partner_images[rows], partner_targets[rows])
            mixed[rows], soft[rows] = mixup(*both, lam)
        rows = is_cut.nonzero().squeeze(1)
        if len(rows):
            extent = torch.tensor([images.shape[-1], images.shape[-2]])
            centre_xy = integers(keys[rows], "cutmix-centre", 2, below=extent).to(device)
            lam = beta(keys[rows], "cutmix", self.cutmix).to(device)
            rows = rows.to(device)
            both = (images[rows], targets[rows], partner_images[rows], partner_targets[rows])
            mixed[rows], soft[rows] = cutmix(*both, lam, centre_xy)
        return mixed, soft


def _mix_targets(targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
    share = lam.view(-1, 1)
    return targets * share + partner_targets * (1 - share)
