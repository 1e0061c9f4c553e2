"""RandAugment for whole batches: every sample its own operations and magnitudes.

Paper: Cubuk et al., "RandAugment", 2020, https://arxiv.org/abs/1909.13719, in timm's version, whose
notation, operations, magnitudes and probability of 0.5 an operation this follows
(`timm/data/auto_augment.py`).

How we differ: warps are bilinear (timm draws bilinear or bicubic unless told), and of timm's
notation the parts `mmax`, `t` and `w` are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vitrellis.data.geometry import replace_rows
from vitrellis.data.randomness import normal, uniform
from vitrellis.data.tones import LOOK_UPS, color, look_up, sharpness
from vitrellis.data.warping import WARPS, combined, warp
from vitrellis.errors import UsageError

OPERATIONS = (*LOOK_UPS, *WARPS, "Color", "Sharpness")
"""All fifteen, each drawn equally often."""
HIGHEST_MAGNITUDE = 10.0
"""Magnitudes are tenths of an operation's greatest strength."""
UNIFORM_FROM_STD = 100.0
"""A larger `mstd` means magnitudes that are uniform up to `m`."""


@dataclass(frozen=True)
class Policy:
    """What a RandAugment string says.

    Attributes:
        magnitude: `m`, 0 to 10.
        magnitude_std: `mstd`, of the normal distribution around it.
        num_layers: `n`, operations one after the other.
        probability: `p`, that an operation is done at all.
        increasing: `inc1`: every operation grows stronger with the magnitude.
    """

    magnitude: float = HIGHEST_MAGNITUDE
    magnitude_std: float = 0.0
    num_layers: int = 2
    probability: float = 0.5
    increasing: bool = False

    def magnitudes(self, keys: Tensor) -> Tensor:
        """One for each sample and layer, `(B, num_layers)` float64."""
        if self.magnitude_std > UNIFORM_FROM_STD:
            share = uniform(keys, "rand-augment-magnitude", self.num_layers)
            return share.double() * self.magnitude
        noise = normal(keys, "rand-augment-magnitude", self.num_layers).double()
        return (self.magnitude + self.magnitude_std * noise).clamp(0, HIGHEST_MAGNITUDE)


def parse_policy(text: str) -> Policy:
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
    return Policy(
        magnitude=values.get("m", HIGHEST_MAGNITUDE),
        magnitude_std=values.get("mstd", 0.0),
        num_layers=int(values.get("n", 2)),
        probability=values.get("p", 0.5),
        increasing=bool(values.get("inc", 0)),
    )


def rand_augment(images: Tensor, keys: Tensor, policy: Policy, fill: Tensor) -> None:
    """Applies the policy, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        keys: `(B,)` of the samples, on the CPU.
        policy: See `parse_policy`.
        fill: `(C,)` float32, grey levels for what warps bring in from outside.
    """
    chosen, magnitudes, signs = _drawn(keys, policy)
    for layer in range(policy.num_layers):
        apply_operations(
            images,
            chosen[:, layer],
            magnitudes[:, layer],
            signs[:, layer],
            increasing=policy.increasing,
            fill=fill,
        )


def warp_matrices(keys: Tensor, policy: Policy, size: tuple[int, int]) -> Tensor:
    """The warps that `rand_augment` does to these samples, in one; other operations move nothing.

    Args:
        keys: `(B,)` of the samples, on the CPU.
        policy: See `parse_policy`.
        size: `(H, W)` of the images.

    Returns:
        `(B, 2, 3)` float64, as `warp` takes them.
    """
    chosen, magnitudes, signs = _drawn(keys, policy)
    whole = torch.eye(2, 3, dtype=torch.float64).repeat(len(keys), 1, 1)
    for layer in range(policy.num_layers):
        told = strengths(chosen[:, layer], magnitudes[:, layer], signs[:, layer], policy.increasing)
        matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(keys), 1, 1)
        for name, matrices_of in WARPS.items():
            rows = (chosen[:, layer] == OPERATIONS.index(name)).nonzero().flatten()
            matrices[rows] = matrices_of(told[rows], size)
        whole = combined(whole, matrices)
    return whole


def _drawn(keys: Tensor, policy: Policy) -> tuple[Tensor, Tensor, Tensor]:
    """Operations (-1 for none), magnitudes and signs, each `(B, num_layers)`."""
    draws = uniform(keys, "rand-augment", 3 * policy.num_layers).unflatten(1, (3, -1))
    which, whether, sign = draws.unbind(dim=1)  # (B, num_layers)
    chosen = torch.where(whether < policy.probability, (which * len(OPERATIONS)).long(), -1)
    return chosen, policy.magnitudes(keys), torch.where(sign < 0.5, -1.0, 1.0)


def apply_operations(
    images: Tensor,
    chosen: Tensor,
    magnitudes: Tensor,
    signs: Tensor,
    *,
    increasing: bool,
    fill: Tensor,
) -> None:
    """One operation to each image, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        chosen: `(B,)` int64 on the CPU, index into `OPERATIONS`, or -1 for none.
        magnitudes: `(B,)` float64 on the CPU, in [0, 10].
        signs: `(B,)` of -1 and 1 on the CPU, for the operations that go both ways.
        increasing: Whether strength grows with the magnitude throughout.
        fill: `(C,)` float32, grey levels.
    """
    counts = torch.bincount(chosen + 1, minlength=len(OPERATIONS) + 1).tolist()
    order = chosen.argsort(stable=True)
    told = strengths(chosen[order], magnitudes[order], signs[order], increasing).to(images.device)
    rows = order.to(images.device).split(counts)[1:]
    calls = {
        name: (own, strength)
        for name, own, strength in zip(OPERATIONS, rows, told.split(counts)[1:], strict=True)
        if len(own)
    }
    for family, operate in _FAMILIES.items():
        names = [name for name in family if name in calls]
        if names:
            own = torch.cat([calls[name][0] for name in names])
            asked = {name: calls[name][1] for name in names}
            replace_rows(images, own, operate(images.index_select(0, own), asked, fill))


def strengths(chosen: Tensor, magnitudes: Tensor, signs: Tensor, increasing: bool) -> Tensor:
    """What operations are told: bits, grey levels, degrees, shares or factors.

    Args:
        chosen: `(B,)` int64, index into `OPERATIONS`; what -1 is told means nothing.
        magnitudes: `(B,)` float64 in [0, 10].
        signs: `(B,)` of -1 and 1.
        increasing: Whether strength grows with the magnitude throughout.

    Returns:
        `(B,)` float64.
    """
    scales = [_SCALES[name, increasing] for name in OPERATIONS]
    greatest, from_, least = torch.tensor(
        [[scale.greatest, scale.start, scale.least] for scale in scales], dtype=torch.float64
    )[chosen].unbind(dim=1)
    is_whole, is_signed = torch.tensor([[s.is_whole, s.is_signed] for s in scales])[chosen].T
    strength = magnitudes / HIGHEST_MAGNITUDE * greatest.abs()
    strength = torch.where(is_whole, strength.trunc(), strength) * greatest.sign()
    return (from_ + torch.where(is_signed, strength * signs, strength)).clamp_min(least)


def _look_up(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    del fill
    channels = images.shape[1]
    parts = images.split([len(strength) for strength in asked.values()])
    tables = [
        LOOK_UPS[name](part, strength).expand(-1, channels, -1)
        for part, (name, strength) in zip(parts, asked.items(), strict=True)
    ]
    return look_up(images, torch.cat(tables))


def _warp(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    matrices = [WARPS[name](strength, (height, width)) for name, strength in asked.items()]
    return warp(images, torch.cat(matrices), fill)


def _color(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    del fill
    return color(images, asked["Color"])


def _sharpness(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    del fill
    return sharpness(images, asked["Sharpness"])


_FAMILIES: dict[tuple[str, ...], Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]] = {
    tuple(LOOK_UPS): _look_up,
    tuple(WARPS): _warp,
    ("Color",): _color,
    ("Sharpness",): _sharpness,
}
"""Operations that are done together: a function of images, strengths by operation, and fill."""


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
"""Of the notation: the highest number, and whether it must be whole."""
