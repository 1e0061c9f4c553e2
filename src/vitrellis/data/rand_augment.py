"""RandAugment for whole batches: every sample its own operations and magnitudes.

Paper: Cubuk et al., "RandAugment", 2020, https://arxiv.org/abs/1909.13719, in timm's version, whose
notation, operations, magnitudes and probability of 0.5 an operation this follows
(`timm/data/auto_augment.py`).

How we differ: warps are bilinear (timm draws bilinear or bicubic unless told), and of timm's
notation the parts `mmax`, `t` and `w` are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrellis.data.randomness import integers, normal, uniform
from vitrellis.data.tones import LOOK_UPS, color, look_up, sharpness
from vitrellis.data.warping import WARPS, warp
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

    def magnitudes(self, keys: Tensor, stream: str) -> Tensor:
        """One for each sample, `(B,)` float64."""
        if self.magnitude_std > UNIFORM_FROM_STD:
            return uniform(keys, stream, 1).squeeze(1).double() * self.magnitude
        noise = normal(keys, stream, 1).squeeze(1).double()
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
    for layer in range(policy.num_layers):
        stream = f"rand-augment-{layer}"
        whether, sign = uniform(keys, stream, 2).unbind(dim=1)
        chosen = integers(keys, f"{stream}-operation", 1, below=len(OPERATIONS)).squeeze(1)
        apply_operations(
            images,
            torch.where(whether < policy.probability, chosen, -1),
            policy.magnitudes(keys, f"{stream}-magnitude"),
            torch.where(sign < 0.5, -1.0, 1.0),
            increasing=policy.increasing,
            fill=fill,
        )


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
    members = chosen.argsort(stable=True).split(counts)[1:]  # rows, by operation
    rows = {name: own for name, own in zip(OPERATIONS, members, strict=True) if len(own)}
    for family, operate in _FAMILIES.items():
        names = [name for name in family if name in rows]
        if not names:
            continue
        strengths = [
            strength(name, magnitudes[rows[name]], signs[rows[name]], increasing).to(images.device)
            for name in names
        ]
        own = torch.cat([rows[name] for name in names]).to(images.device)
        changed = operate(images.index_select(0, own), names, strengths, fill)
        images.index_copy_(0, own, changed)


def strength(name: str, magnitudes: Tensor, signs: Tensor, increasing: bool) -> Tensor:
    """What an operation is told.

    Args:
        name: Of the operation.
        magnitudes: `(B,)` float64 in [0, 10].
        signs: `(B,)` of -1 and 1.
        increasing: Whether strength grows with the magnitude throughout.

    Returns:
        `(B,)`: bits or grey levels int64, shares and degrees float64, factors float32.
    """
    levels = magnitudes / HIGHEST_MAGNITUDE
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        factors = (1 + signs * (levels * 0.9)).clamp_min(0.1) if increasing else levels * 1.8 + 0.1
        return factors.float()
    if name in ("Posterize", "Solarize"):
        most = 4 if name == "Posterize" else 256
        whole = (levels * most).long()
        return most - whole if increasing else whole
    if name == "SolarizeAdd":
        return (levels * 110).long()
    return levels * signs * _GREATEST.get(name, 1.0)


def _look_up(images: Tensor, names: list[str], strengths: list[Tensor], fill: Tensor) -> Tensor:
    del fill
    channels = images.shape[1]
    parts = zip(names, strengths, images.split([len(own) for own in strengths]), strict=True)
    tables = [LOOK_UPS[name](part, own).expand(-1, channels, -1) for name, own, part in parts]
    return look_up(images, torch.cat(tables))


def _warp(images: Tensor, names: list[str], strengths: list[Tensor], fill: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    parts = zip(names, strengths, strict=True)
    matrices = [WARPS[name](own, (height, width)) for name, own in parts]
    return warp(images, torch.cat(matrices), fill)


def _color(images: Tensor, names: list[str], strengths: list[Tensor], fill: Tensor) -> Tensor:
    del names, fill
    return color(images, *strengths)


def _sharpness(images: Tensor, names: list[str], strengths: list[Tensor], fill: Tensor) -> Tensor:
    del names, fill
    return sharpness(images, *strengths)


_FAMILIES: dict[tuple[str, ...], Callable[[Tensor, list[str], list[Tensor], Tensor], Tensor]] = {
    tuple(LOOK_UPS): _look_up,
    tuple(WARPS): _warp,
    ("Color",): _color,
    ("Sharpness",): _sharpness,
}
"""Operations that are done together, by one function of images, names, strengths and fill."""
_GREATEST = {
    "Rotate": 30.0,
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateXRel": 0.45,
    "TranslateYRel": 0.45,
}
"""In degrees, and in shares of the image's side."""
_PARTS = {
    "m": (HIGHEST_MAGNITUDE, False),
    "mstd": (float("inf"), False),
    "n": (100.0, True),
    "p": (1.0, False),
    "inc": (1.0, True),
}
"""Of the notation: the highest number, and whether it must be whole."""
