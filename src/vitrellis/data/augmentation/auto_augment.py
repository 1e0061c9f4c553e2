"""AutoAugment for whole batches: every sample its own of 25 learned pairs of operations.

Paper: Cubuk et al., "AutoAugment", CVPR 2019, https://arxiv.org/abs/1805.09501. The pairs, their
probabilities and magnitudes are torchvision's tables of the published ones
(`torchvision.transforms.AutoAugment`), and so is what a magnitude means.

How we differ: warps are bilinear, as in our RandAugment, and bring in the mean colour. Those of
torchvision take the nearest pixel and bring in black unless told.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment as Published
from torchvision.transforms import AutoAugmentPolicy

from vitrellis.data.augmentation.operations import NOTHING, OPERATIONS, Drawn
from vitrellis.data.randomness import integers, uniform

PolicyName = Literal["cifar10", "imagenet", "svhn"]
"""The data sets that policies were learned on."""
NUM_MAGNITUDES = 10
"""From none, or a weak one, to the strongest."""
GREATEST_TRANSLATION = 150 / 331
"""Share of a side."""
_OWN_NAMES = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}


class AutoAugment:
    """One of the published policies: a pair of operations, each done with its own probability.

    Args:
        name: What it was learned on.
    """

    def __init__(self, name: PolicyName) -> None:
        pairs = Published(AutoAugmentPolicy(name)).policies
        names = [[_OWN_NAMES.get(name, name) for name, _, _ in pair] for pair in pairs]
        self.operations = torch.tensor([[OPERATIONS.index(n) for n in pair] for pair in names])
        self.probabilities = torch.tensor([[share for _, share, _ in pair] for pair in pairs])
        self.magnitudes = torch.tensor([[number or 0 for _, _, number in pair] for pair in pairs])

    def drawn(self, keys: Tensor, size: tuple[int, int]) -> Drawn:
        """Operations and strengths of two layers; see `Policy`."""
        which = integers(keys, "auto-augment", 1, below=len(self.operations)).squeeze(1)
        draws = uniform(keys, "auto-augment-layers", 4).unflatten(1, (2, 2))
        whether, sign = draws.unbind(dim=1)  # (B, 2)
        operations, magnitudes = self.operations[which], self.magnitudes[which]
        is_done = whether < self.probabilities[which]
        signs = torch.where(sign < 0.5, -1.0, 1.0)
        strengths = auto_strengths(operations, magnitudes, signs, size)
        return Drawn(torch.where(is_done, operations, NOTHING), strengths)


def auto_strengths(
    operations: Tensor, magnitudes: Tensor, signs: Tensor, size: tuple[int, int]
) -> Tensor:
    """What operations are told: bits, grey levels, degrees, shares or factors.

    Args:
        operations: `(B, ...)` int64, index into `OPERATIONS`.
        magnitudes: int64 in [0, 9], of the same shape; some operations have none.
        signs: -1 and 1, of the same shape, for the operations that go both ways.
        size: `(H, W)` of the images. They are moved by whole pixels.

    Returns:
        float64, of the same shape.
    """
    steps = {name: torch.linspace(0, end, NUM_MAGNITUDES) for name, end in _ENDS.items()}
    for name, side in (("TranslateYRel", size[0]), ("TranslateXRel", size[1])):
        pixels = torch.linspace(0, GREATEST_TRANSLATION * side, NUM_MAGNITUDES).trunc()
        steps[name] = -pixels.double() / side  # a positive sign is to the right and down
    fixed = {
        "Posterize": 8 - (torch.arange(NUM_MAGNITUDES) / ((NUM_MAGNITUDES - 1) / 4)).round(),
        "Solarize": torch.linspace(255, 0, NUM_MAGNITUDES),
    }
    both_ways = torch.zeros(len(OPERATIONS), NUM_MAGNITUDES, dtype=torch.float64)
    start = torch.zeros(len(OPERATIONS), NUM_MAGNITUDES, dtype=torch.float64)
    for name, values in steps.items():
        both_ways[OPERATIONS.index(name)] = values.double()
    for name, values in fixed.items():
        start[OPERATIONS.index(name)] = values.double()
    start[[OPERATIONS.index(name) for name in _ENHANCEMENTS]] = 1.0
    return start[operations, magnitudes] + signs * both_ways[operations, magnitudes]


_ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")
_ENDS = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0, **dict.fromkeys(_ENHANCEMENTS, 0.9)}
"""What the greatest magnitude adds or takes away."""
