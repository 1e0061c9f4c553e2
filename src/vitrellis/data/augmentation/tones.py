"""Changes of grey levels and colours for whole batches, each image by its own strength.

Every function computes what Pillow computes for one image (`ImageOps`, `ImageEnhance`), to the
grey level: with the same arithmetic and truncation. They avoid what is slow in torch on a CPU:
booleans, tables where arithmetic will do, and temporary results that do not fit the caches.

How we differ: Pillow takes one or three channels, these functions any number. With other numbers,
grey is the mean of the channels, and `color` and `hue` change nothing. Pillow does not move hues:
`hue` is torchvision's for tensors, to a grey level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitrellis.data.augmentation.resampling import cached_parts

LARGE_PLANE = 1 << 13
"""Pixels of a channel from which a CPU counts its levels faster alone than among others."""


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replaces every grey level by its entry in a table.

    Args:
        images: `(B, C, H, W)` uint8.
        tables: `(B, C, 256)` uint8.

    Returns:
        `(B, C, H, W)` uint8.
    """
    pixels = images.flatten(2)
    out = torch.empty_like(pixels)
    for part in cached_parts(len(images), 2 * pixels.shape[1:].numel(), images.device):
        torch.gather(tables[part], 2, pixels[part].long(), out=out[part])
    return out.view_as(images)


def autocontrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Stretches each channel to all of [0, 255].

    Args:
        images: `(B, C, H, W)` uint8.
        strengths: Unused.

    Returns:
        `(B, C, H, W)` uint8.
    """
    del strengths
    pixels = images.flatten(2)
    low, high = (  # each (B, C, 1); faster than aminmax
        level(pixels, dim=2, keepdim=True).double() for level in (torch.amin, torch.amax)
    )
    scale = 255 / (high - low)
    stretched = _grey_levels(images).double() * scale + -low * scale
    return look_up(images, _to_bytes(torch.where(high > low, stretched, _grey_levels(images))))


def equalize(images: Tensor, strengths: Tensor) -> Tensor:
    """Makes each channel's histogram flat.

    Args:
        images: `(B, C, H, W)` uint8.
        strengths: Unused.

    Returns:
        `(B, C, H, W)` uint8.
    """
    del strengths
    counts = _histograms(images)
    lightest = images.flatten(2).amax(dim=2, keepdim=True).long()
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, lightest)) // 255
    darker = counts.cumsum(dim=2) - counts
    ranks = (step // 2 + darker) // step.clamp_min(1)
    return look_up(images, _to_bytes(torch.where(step > 0, ranks, _grey_levels(images))))


def invert(images: Tensor, strengths: Tensor) -> Tensor:
    """Turns black to white; `(B, C, H, W)` uint8 in and out. There is no strength."""
    del strengths
    return images.bitwise_not()


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest `bits`, `(B,)`, of `(B, C, H, W)` uint8; 0 leaves black."""
    return images & (256 - (256 >> bits.long())).to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Inverts the levels of `(B, C, H, W)` uint8 from `thresholds`, `(B,)`, up."""
    least = thresholds.clamp(0, 255).ceil().to(torch.uint8).view(-1, 1, 1, 1)
    inverting = torch.where(thresholds <= 255, 255, 0).to(torch.uint8).view(-1, 1, 1, 1)
    is_inverted = torch.ge(images, least, out=torch.empty_like(images))
    return is_inverted.mul_(inverting).bitwise_xor_(images)


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    """Adds `added`, `(B,)` up to 128, to the levels of `(B, C, H, W)` uint8 below 128."""
    is_dark = torch.lt(images, 128, out=torch.empty_like(images))
    return is_dark.mul_(added.to(torch.uint8).view(-1, 1, 1, 1)).add_(images)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Images from black (factor 0) over themselves (1) to brighter ones.

    Args:
        images: `(B, C, H, W)` uint8.
        factors: `(B,)`.

    Returns:
        `(B, C, H, W)` uint8.
    """
    out = torch.empty_like(images)
    for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
        levels = images[part].float().mul_(factors[part].float().view(-1, 1, 1, 1))
        out[part] = levels.clamp_(0, 255).short()  # truncated, as Pillow does
    return out


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Images from their mean grey (factor 0) over themselves (1) to more contrast.

    Args:
        images: `(B, C, H, W)` uint8.
        factors: `(B,)`.

    Returns:
        `(B, C, H, W)` uint8.
    """
    out = torch.empty_like(images)
    for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
        mean = _greyscale(images[part]).mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
        mean = mean.add_(0.5).floor_().float()
        out[part] = _away_from(mean, images[part], factors[part])
    return out


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Images from grey (factor 0) over themselves (1) to more colourful ones.

    Args:
        images: `(B, C, H, W)` uint8. Only three channels are changed.
        factors: `(B,)`.

    Returns:
        `(B, C, H, W)` uint8.
    """
    if images.shape[1] != 3:
        return images
    out = torch.empty_like(images)
    for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
        out[part] = _away_from(_greyscale(images[part]), images[part], factors[part])
    return out


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images whose hues are moved around the circle of colours.

    A pixel keeps its lightest value and its darkest. With hues in sixths of the circle, red at 0,
    a channel has the lightest value up to 1 from its own hue, the darkest from 2 on, and what lies
    between them in between.

    Args:
        images: `(B, C, H, W)` uint8. Only three channels are changed.
        turns: `(B,)` in circles, from -0.5 to 0.5.

    Returns:
        `(B, C, H, W)` uint8.
    """
    if images.shape[1] != 3:
        return images
    sixths = 6 * turns.float().view(-1, 1, 1, 1)
    own_hues = torch.tensor([0.0, 2.0, 4.0], device=images.device).view(1, 3, 1, 1)
    out = torch.empty_like(images)
    for part in cached_parts(len(images), 4 * images.shape[1:].numel(), images.device):
        red, green, blue = images[part].float().split(1, dim=1)  # (b, 1, H, W)
        lightest = torch.maximum(torch.maximum(red, green), blue)
        spread = lightest - torch.minimum(torch.minimum(red, green), blue)
        # 1 in the first channel that is lightest; multiplying is faster than choosing
        is_red = (red == lightest).float()
        is_green = (green == lightest).float().mul_(1 - is_red)
        is_blue = 1 - is_red - is_green
        lead = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
        place = lead.div_(spread.clamp_min(1))  # greys have no hue, and need none
        place.add_(is_green * 2).add_(is_blue * 4).add_(sixths[part])
        place.sub_((place / 6).floor_().mul_(6))  # in [0, 6); faster than a remainder
        away = (place - own_hues).abs_().sub_(3).abs_().neg_().add_(2).clamp_(0, 1)  # (b, 3, H, W)
        out[part] = (lightest + 0.5).sub(away.mul_(spread)).short()
    return out


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Images from smoothed ones (factor 0) over themselves (1) to sharper ones.

    Args:
        images: `(B, C, H, W)` uint8.
        factors: `(B,)`.

    Returns:
        `(B, C, H, W)` uint8.
    """
    out = images.clone()  # the border stays as it is
    for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
        pixels = images[part].short()
        columns = pixels[..., :-2, :] + pixels[..., 1:-1, :]
        columns.add_(pixels[..., 2:, :])
        nine = columns[..., :-2] + columns[..., 1:-1]
        inner = pixels[..., 1:-1, 1:-1]
        nine.add_(columns[..., 2:]).add_(inner, alpha=4)
        smooth = nine.float().div_(13).add_(0.5).floor_()
        out[part, :, 1:-1, 1:-1] = _away_from(smooth, inner, factors[part])
    return out


def _away_from(least: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Image enhancement: `least` for factor 0, the images for 1, and beyond; int16.

    Args:
        least: float32 `(B, 1 or C, H, W)`.
        images: `(B, C, H, W)` whole levels.
        factors: `(B,)`.
    """
    levels = images.float().sub_(least).mul_(factors.float().view(-1, 1, 1, 1))
    return levels.add_(least).clamp_(0, 255).short()  # truncated, as Pillow does


def _greyscale(images: Tensor) -> Tensor:
    """`(B, 1, H, W)` float32: the luma of three channels, else the mean, rounded."""
    channels = images.shape[1]
    if channels != 3:
        total = images.sum(dim=1, keepdim=True, dtype=torch.int32)
        return ((2 * total + channels) // (2 * channels) if channels > 1 else total).float()
    # the integers of `luma`; all sums are below 2^24, and so are exact in float32
    red, green, blue = images.float().split(1, dim=1)
    grey = red.mul(19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return grey.add_(1 << 15).mul_(2.0**-16).floor_()


def _histograms(images: Tensor) -> Tensor:
    """The number of pixels of each level, `(B, C, 256)` int64."""
    rows = images.flatten(0, 1).flatten(1)  # (B * C, H * W)
    if rows.shape[1] >= LARGE_PLANE and images.device.type == "cpu":
        counts = torch.stack([torch.bincount(row, minlength=256) for row in rows])
        return counts.view(*images.shape[:2], 256)
    first = torch.arange(len(rows), device=images.device)[:, None] * 256
    counts = torch.bincount((rows + first).flatten(), minlength=len(rows) * 256)
    return counts.view(*images.shape[:2], 256)


def _grey_levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device).view(1, 1, 256)


def _to_bytes(levels: Tensor) -> Tensor:
    """Clips, and truncates as Pillow does."""
    return levels.clamp(0, 255).short().to(torch.uint8)  # faster than straight from floats


TONES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Contrast": contrast,
    "Brightness": brightness,
    "Color": color,
    "Sharpness": sharpness,
    "Hue": hue,
}
"""Functions of images and strengths, by timm's names where timm has them."""
