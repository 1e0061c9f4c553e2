"""RandAugment for whole batches: every sample its own operations and magnitudes.

Paper: Cubuk et al., "RandAugment", 2020, https://arxiv.org/abs/1909.13719, in timm's version, whose
notation, operations, magnitudes and probability of 0.5 an operation this follows
(`timm/data/auto_augment.py`; checked against Pillow, one image at a time).

How we differ: warps are bilinear (timm draws bilinear or bicubic), colour is left alone in images
that do not have three channels, and images that do not have three are grey to Contrast by the mean
of their channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.geometry import warp
from vitrellis.data.randomness import normal, uniform
from vitrellis.errors import UsageError

LEVELS = 10.0
"""Magnitudes are tenths."""


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

    magnitude: float = 10.0
    magnitude_std: float = 0.0
    num_layers: int = 2
    probability: float = 0.5
    increasing: bool = False


def parse_policy(text: str) -> Policy:
    """Reads timm's notation, such as `rand-m9-mstd0.5-inc1`.

    Raises:
        UsageError: If it is something else, or has a part that is not supported here.
    """
    name, *parts = text.split("-")
    readers: dict[str, tuple[str, Callable[[str], float]]] = {
        "m": ("magnitude", float),
        "mstd": ("magnitude_std", float),
        "n": ("num_layers", int),
        "p": ("probability", float),
        "inc": ("increasing", lambda value: bool(int(value))),
    }
    settings = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)([\d.]+)", part)
        if match is None or match[1] not in readers:
            raise UsageError(
                f"augmentation.rand_augment: {text!r} has {part!r}; known are m, mstd, n, p and "
                "inc with a number, as in rand-m9-mstd0.5-inc1"
            )
        field, read = readers[match[1]]
        settings[field] = read(match[2])
    if name != "rand":
        raise UsageError(f"augmentation.rand_augment: {text!r} should begin with 'rand-'")
    return Policy(**settings)  # type: ignore[arg-type]  # the readers give the fields' types


def rand_augment(images: Tensor, keys: Tensor, policy: Policy, fill: Tensor) -> Tensor:
    """Applies the policy.

    Args:
        images: `(B, C, H, W)` uint8.
        keys: `(B,)` of the samples.
        policy: See `parse_policy`.
        fill: `(C,)` grey levels for what warps bring in from outside.

    Returns:
        `(B, C, H, W)` uint8.
    """
    for layer in range(policy.num_layers):
        draws = uniform(keys, f"rand-augment-{layer}", 3)  # operation, whether, sign
        noise = normal(keys, f"rand-augment-magnitude-{layer}", 1).squeeze(1)
        levels = (policy.magnitude + policy.magnitude_std * noise).clamp(0, LEVELS) / LEVELS
        signs = torch.where(draws[:, 2] < 0.5, -1.0, 1.0)
        chosen = (draws[:, 0] * len(OPERATIONS)).long()
        chosen = torch.where(draws[:, 1] < policy.probability, chosen, -1)
        images = apply_operations(images, chosen, levels, signs, policy.increasing, fill)
    return images


def apply_operations(
    images: Tensor, chosen: Tensor, levels: Tensor, signs: Tensor, increasing: bool, fill: Tensor
) -> Tensor:
    """One operation to each image.

    Args:
        images: `(B, C, H, W)` uint8.
        chosen: `(B,)` index into `OPERATIONS`, or -1 for none.
        levels: `(B,)` in [0, 1].
        signs: `(B,)` of -1 and 1, for the operations that go both ways.
        increasing: Whether strength grows with the level throughout.
        fill: `(C,)` grey levels.
    """
    out = images.clone()
    for members, operate in (
        (TABLES, _look_up),
        (WARPS, _warp),
        (("Color",), _color),
        (("Sharpness",), _sharpness),
    ):
        codes = torch.tensor([OPERATIONS.index(name) for name in members], device=images.device)
        rows = torch.isin(chosen, codes).nonzero().squeeze(1)
        if len(rows):
            call = Call(chosen[rows], levels[rows], signs[rows], increasing, fill)
            out[rows] = operate(images[rows], call)
    return out


@dataclass(frozen=True)
class Call:
    """Operations and magnitudes of some images, `(b,)` each."""

    chosen: Tensor
    levels: Tensor
    signs: Tensor
    increasing: bool
    fill: Tensor

    def factors(self) -> Tensor:
        """Of the enhancements: 1 changes nothing."""
        if self.increasing:
            return (1 + 0.9 * self.levels * self.signs).clamp_min(0.1)
        return 1.8 * self.levels + 0.1


def _look_up(images: Tensor, call: Call) -> Tensor:
    """All operations that are a table of 256 grey levels per image and channel."""
    tables = torch.empty(*images.shape[:2], 256, device=images.device)  # (b, C, 256)
    for name, make in TABLES.items():
        rows = (call.chosen == OPERATIONS.index(name)).nonzero().squeeze(1)
        if len(rows):
            part = Call(
                call.chosen[rows], call.levels[rows], call.signs[rows], call.increasing, call.fill
            )
            tables[rows] = make(images[rows], part).expand(-1, images.shape[1], -1)
    # Pillow truncates
    tables = tables.clamp(0, 255).to(torch.uint8)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _levels_of_grey(images: Tensor) -> Tensor:
    return torch.arange(256.0, device=images.device).view(1, 1, 256)


def _autocontrast(images: Tensor, call: Call) -> Tensor:
    del call
    grey = _levels_of_grey(images)
    low, high = images.flatten(2).float().aminmax(dim=2, keepdim=True)  # (b, C, 1)
    scale = 255 / (high - low)
    # floor with a little room: Pillow multiplies in double precision
    return torch.where(high > low, torch.floor(grey * scale - low * scale + 1e-3), grey)


def _equalize(images: Tensor, call: Call) -> Tensor:
    del call
    flat = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    last = flat.amax(dim=2, keepdim=True)
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, last)) // 255
    below = counts.cumsum(dim=2) - counts
    table = (step // 2 + below) // step.clamp_min(1)
    return torch.where(step > 0, table.float(), _levels_of_grey(images))


def _invert(images: Tensor, call: Call) -> Tensor:
    del call
    return 255 - _levels_of_grey(images)


def _posterize(images: Tensor, call: Call) -> Tensor:
    bits = (call.levels * 4).long()
    bits = (4 - bits if call.increasing else bits).view(-1, 1, 1)
    grey = torch.arange(256, device=images.device).view(1, 1, 256)
    return (grey >> (8 - bits) << (8 - bits)).float()


def _solarize(images: Tensor, call: Call) -> Tensor:
    threshold = (call.levels * 256).long().clamp_max(256)
    threshold = (256 - threshold if call.increasing else threshold).view(-1, 1, 1)
    grey = _levels_of_grey(images)
    return torch.where(grey < threshold, grey, 255 - grey)


def _solarize_add(images: Tensor, call: Call) -> Tensor:
    add = (call.levels * 110).long().clamp_max(128).view(-1, 1, 1)
    grey = _levels_of_grey(images)
    return torch.where(grey < 128, grey + add, grey)


def _brightness(images: Tensor, call: Call) -> Tensor:
    return _levels_of_grey(images) * call.factors().view(-1, 1, 1)


def _contrast(images: Tensor, call: Call) -> Tensor:
    mean = torch.floor(_grey(images).float().mean(dim=(1, 2, 3)) + 0.5).view(-1, 1, 1)
    return mean + (_levels_of_grey(images) - mean) * call.factors().view(-1, 1, 1)


def _warp(images: Tensor, call: Call) -> Tensor:
    height, width = images.shape[-2:]
    signed = call.levels * call.signs
    matrices = torch.zeros(len(images), 2, 3, device=images.device)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1

    def put(name: str, row: int, column: int, value: Tensor) -> None:
        is_it = call.chosen == OPERATIONS.index(name)
        matrices[:, row, column] = torch.where(is_it, value, matrices[:, row, column])

    put("ShearX", 0, 1, 0.3 * signed)
    put("ShearY", 1, 0, 0.3 * signed)
    put("TranslateXRel", 0, 2, 0.45 * width * signed)
    put("TranslateYRel", 1, 2, 0.45 * height * signed)
    angles = -math.radians(30.0) * signed
    cos, sin = torch.cos(angles), torch.sin(angles)
    x, y = width / 2, height / 2
    put("Rotate", 0, 0, cos)
    put("Rotate", 0, 1, sin)
    put("Rotate", 0, 2, x - x * cos - y * sin)
    put("Rotate", 1, 0, -sin)
    put("Rotate", 1, 1, cos)
    put("Rotate", 1, 2, y + x * sin - y * cos)
    return torch.round(warp(images.float(), matrices, call.fill)).to(torch.uint8)


def _color(images: Tensor, call: Call) -> Tensor:
    if images.shape[1] != 3:
        return images
    grey = _grey(images).float()
    factors = call.factors().view(-1, 1, 1, 1)
    return (grey + (images.float() - grey) * factors).clamp(0, 255).to(torch.uint8)


def _sharpness(images: Tensor, call: Call) -> Tensor:
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    pixels = images.float()
    smooth = pixels.clone()  # the border stays as it is, as in Pillow
    inner = F.conv2d(pixels.flatten(0, 1)[:, None], kernel[None, None]).unflatten(
        0, images.shape[:2]
    )
    smooth[:, :, 1:-1, 1:-1] = torch.floor(inner[:, :, 0] + 0.5)
    factors = call.factors().view(-1, 1, 1, 1)
    return (smooth + (pixels - smooth) * factors).clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """`(B, 1, H, W)` int64: ITU-R 601 luma of three channels as Pillow rounds it, else the mean."""
    if images.shape[1] != 3:
        return images.float().mean(dim=1, keepdim=True).round().long()
    weights = torch.tensor([19595, 38470, 7471], device=images.device).view(1, 3, 1, 1)
    return ((images.long() * weights).sum(dim=1, keepdim=True) + 0x8000) >> 16


TABLES: dict[str, Callable[[Tensor, Call], Tensor]] = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Contrast": _contrast,
    "Brightness": _brightness,
}
WARPS = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
OPERATIONS = (*TABLES, *WARPS, "Color", "Sharpness")
"""All fifteen, each drawn equally often."""
