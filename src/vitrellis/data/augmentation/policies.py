"""Policies that draw operations for every sample of a batch: RandAugment and AutoAugment.

RandAugment: Cubuk et al., 2020, https://arxiv.org/abs/1909.13719, in timm's version, whose
notation, operations, magnitudes and probability of 0.5 an operation this follows
(`timm/data/auto_augment.py`). How we differ: warps are bilinear unless told (timm draws bilinear or
bicubic; `warp_interpolation` says so), and of timm's notation the parts `mmax`, `t` and `w` are
left out.

AutoAugment: Cubuk et al., CVPR 2019, https://arxiv.org/abs/1805.09501. The pairs, their
probabilities and magnitudes are torchvision's tables of the published ones
(`torchvision.transforms.AutoAugment`), and so is what a magnitude means. How we differ: warps are
bilinear or bicubic, as in our RandAugment, and bring in the mean colour. Those of torchvision take
the nearest pixel and bring in black unless told.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms import AutoAugment as Published
from torchvision.transforms import AutoAugmentPolicy

from vitrellis.data.augmentation.operations import (
    NOTHING,
    OPERATIONS,
    Layers,
    Policy,
    WarpInterpolation,
    bicubic_warps,
)
from vitrellis.data.augmentation.steps import AugmentationKeys, Step
from vitrellis.data.randomness import integers, normal, uniform
from vitrellis.errors import UsageError

HIGHEST_MAGNITUDE = 10.0
"""Magnitudes are tenths of an operation's greatest strength."""
UNIFORM_FROM_STD = 100.0
"""A larger `mstd` means magnitudes that are uniform up to `m`."""
CHOICES = OPERATIONS[:15]
"""timm's fifteen, each drawn equally often."""

PolicyName = Literal["cifar10", "imagenet", "svhn"]
"""The datasets that policies were learned on."""


class PolicyKeys(AugmentationKeys):
    """The keys of the two policies, of which one at most is in use."""

    rand_augment: Annotated[str, Field(pattern=r"^rand(-[a-z]+\d+(\.\d+)?)+$")] | None = None
    """RandAugment in timm's notation, such as `rand-m9-mstd0.5-inc1`; none if not given."""
    auto_augment: PolicyName | None = None
    """AutoAugment's policy that was learned on these images, in place of RandAugment."""
    warp_interpolation: WarpInterpolation = "bilinear"
    """The interpolation with which these two rotate, shear and move images; `random` draws one of
    the two for each operation, as timm does if it is not told."""

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.rand_augment is not None and self.auto_augment is not None:
            raise ValueError(
                "rand_augment and auto_augment replace each other; give one of them "
                "(rand_augment: null takes back what another recipe says)"
            )
        return self

    def step(self) -> Step | None:
        """The policy."""
        if self.auto_augment is not None:
            return AutoAugment(self.auto_augment, self.warp_interpolation)
        if self.rand_augment is None:
            return None
        return replace(parse_policy(self.rand_augment), warp_interpolation=self.warp_interpolation)

    def words(self) -> list[str]:
        """RandAugment's notation, or AutoAugment's name."""
        warps = "" if self.warp_interpolation == "bilinear" else f" ({self.warp_interpolation})"
        if self.auto_augment is not None:
            return [f"AutoAugment of {self.auto_augment}{warps}"]
        return [] if self.rand_augment is None else [f"{self.rand_augment}{warps}"]


@dataclass(frozen=True)
class RandAugment(Policy):
    """RandAugment: each of `CHOICES` is drawn equally often.

    Attributes:
        magnitude: `m`, 0 to 10.
        magnitude_std: `mstd`, the standard deviation around it.
        num_layers: `n`, the number of operations, one after the other.
        probability: `p`, the probability that an operation is applied at all.
        increasing: `inc1`, whether every operation grows stronger with the magnitude.
        warp_interpolation: The kernel of rotation, shear and translation.
    """

    magnitude: float = HIGHEST_MAGNITUDE
    magnitude_std: float = 0.0
    num_layers: int = 2
    probability: float = 0.5
    increasing: bool = False
    warp_interpolation: WarpInterpolation = "bilinear"

    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """Operations and strengths of `num_layers` layers, whatever the size; see `Policy`."""
        del size
        draws = uniform(keys, "rand-augment", 3 * self.num_layers).unflatten(1, (3, -1))
        which, whether, sign = draws.unbind(dim=1)  # (B, num_layers)
        is_done = whether < self.probability
        indices = torch.where(is_done, (which * len(CHOICES)).long(), NOTHING)
        signs = torch.where(sign < 0.5, -1.0, 1.0)
        strength = strengths(indices, self.magnitudes(keys), signs, self.increasing)
        is_bicubic = bicubic_warps(keys, self.num_layers, self.warp_interpolation)
        return Layers(indices, strength, is_bicubic)

    def magnitudes(self, keys: Tensor) -> Tensor:
        """One for each sample and layer, `(B, num_layers)` float64."""
        if self.magnitude_std > UNIFORM_FROM_STD:
            share = uniform(keys, "rand-augment-magnitude", self.num_layers)
            return share.double() * self.magnitude
        noise = normal(keys, "rand-augment-magnitude", self.num_layers).double()
        return (self.magnitude + self.magnitude_std * noise).clamp(0, HIGHEST_MAGNITUDE)


def parse_policy(text: str) -> RandAugment:
    """Reads timm's notation, such as `rand-m9-mstd0.5-inc1`.

    Raises:
        UsageError: If it is something else, or has a part that is not supported here.
    """
    name, *parts = text.split("-")
    if name != "rand":
        raise UsageError(f"augmentation.rand_augment: {text!r} should begin with 'rand-'")
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] not in _PARTS:
            raise UsageError(
                f"augmentation.rand_augment: {text!r} has {part!r}; known are m, mstd, n, p and "
                "inc, each with a number, as in rand-m9-mstd0.5-inc1"
            )
        name, value = match[1], float(match[2])
        highest, is_whole = _PARTS[name]
        if value > highest or (is_whole and value != int(value)):
            kind = "a whole number" if is_whole else "a number"
            raise UsageError(
                f"augmentation.rand_augment: {text!r} has {part!r}; "
                f"after {name!r} comes {kind} up to {highest:g}"
            )
        values[name] = value
    return RandAugment(
        magnitude=values.get("m", HIGHEST_MAGNITUDE),
        magnitude_std=values.get("mstd", 0.0),
        num_layers=int(values.get("n", 2)),
        probability=values.get("p", 0.5),
        increasing=bool(values.get("inc", 0)),
    )


def strengths(operations: Tensor, magnitudes: Tensor, signs: Tensor, increasing: bool) -> Tensor:
    """The strengths of operations: bits, grey levels, degrees, shares or factors.

    Args:
        operations: `(B, ...)` int64, index into `CHOICES`; the strength of `NOTHING` is undefined.
        magnitudes: float64 in [0, 10], of the same shape.
        signs: -1 and 1, of the same shape, for the operations that go both ways.
        increasing: True if every strength grows with the magnitude.

    Returns:
        float64, of the same shape.
    """
    scales = [_SCALES[name, increasing] for name in CHOICES]
    greatest, from_, least = torch.tensor(
        [[scale.greatest, scale.start, scale.least] for scale in scales], dtype=torch.float64
    )[operations].unbind(dim=-1)
    flags = torch.tensor([[scale.is_whole, scale.is_signed] for scale in scales])
    is_whole, is_signed = flags[operations].unbind(dim=-1)
    strength = magnitudes / HIGHEST_MAGNITUDE * greatest.abs()
    strength = torch.where(is_whole, strength.trunc(), strength) * greatest.sign()
    return (from_ + torch.where(is_signed, strength * signs, strength)).clamp_min(least)


class _Scale(NamedTuple):
    """From magnitude to strength: `start` for 0, `start + greatest` for 10."""

    greatest: float = 0.0
    start: float = 0.0
    least: float = -math.inf
    is_whole: bool = False
    is_signed: bool = False


_ENHANCEMENT = {True: _Scale(0.9, 1.0, 0.1, is_signed=True), False: _Scale(1.8, 0.1)}
_SCALES = {
    (name, increasing): scale
    for increasing in (True, False)
    for name, scale in {
        "AutoContrast": _Scale(),
        "Equalize": _Scale(),
        "Invert": _Scale(),
        "Posterize": _Scale(-4, 4, is_whole=True) if increasing else _Scale(4, is_whole=True),
        "Solarize": _Scale(-256, 256, is_whole=True) if increasing else _Scale(256, is_whole=True),
        "SolarizeAdd": _Scale(110, is_whole=True),
        "Rotate": _Scale(30, is_signed=True),
        "ShearX": _Scale(0.3, is_signed=True),
        "ShearY": _Scale(0.3, is_signed=True),
        "TranslateXRel": _Scale(0.45, is_signed=True),
        "TranslateYRel": _Scale(0.45, is_signed=True),
        **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _ENHANCEMENT[increasing]),
    }.items()
}
_PARTS = {
    "m": (HIGHEST_MAGNITUDE, False),
    "mstd": (float("inf"), False),
    "n": (100.0, True),
    "p": (1.0, False),
    "inc": (1.0, True),
}
"""The parts of the notation: the highest number, and whether it must be whole."""


NUM_MAGNITUDES = 10
"""Number of magnitudes, from none, or a weak one, to the strongest."""
GREATEST_TRANSLATION = 150 / 331
"""Greatest translation, as a share of a side."""
_OWN_NAMES = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}


class AutoAugment(Policy):
    """One of the published policies: a pair of operations, each applied with its own probability.

    Args:
        name: The dataset that it was learned on.
        warp_interpolation: The kernel of rotation, shear and translation.
    """

    def __init__(
        self, name: PolicyName, warp_interpolation: WarpInterpolation = "bilinear"
    ) -> None:
        self.warp_interpolation: WarpInterpolation = warp_interpolation
        pairs = Published(AutoAugmentPolicy(name)).policies
        names = [[_OWN_NAMES.get(name, name) for name, _, _ in pair] for pair in pairs]
        self.operations = torch.tensor([[OPERATIONS.index(n) for n in pair] for pair in names])
        self.probabilities = torch.tensor([[share for _, share, _ in pair] for pair in pairs])
        self.magnitudes = torch.tensor([[number or 0 for _, _, number in pair] for pair in pairs])

    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """Operations and strengths of two layers; see `Policy`."""
        which = integers(keys, "auto-augment", 1, below=len(self.operations)).squeeze(1)
        draws = uniform(keys, "auto-augment-layers", 4).unflatten(1, (2, 2))
        whether, sign = draws.unbind(dim=1)  # (B, 2)
        operations, magnitudes = self.operations[which], self.magnitudes[which]
        is_done = whether < self.probabilities[which]
        signs = torch.where(sign < 0.5, -1.0, 1.0)
        strengths = auto_strengths(operations, magnitudes, signs, size)
        is_bicubic = bicubic_warps(keys, 2, self.warp_interpolation)
        return Layers(torch.where(is_done, operations, NOTHING), strengths, is_bicubic)


def auto_strengths(
    operations: Tensor, magnitudes: Tensor, signs: Tensor, size: tuple[int, int]
) -> Tensor:
    """The strengths of operations: bits, grey levels, degrees, shares or factors.

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
"""The change that the greatest magnitude makes."""
