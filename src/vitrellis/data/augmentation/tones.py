"""Changes of grey levels and colours for whole batches, each image by its own strength.

Every function computes what Pillow computes for one image (`ImageOps`, `ImageEnhance`), to the
grey level: with the same arithmetic and truncation. Most changes are a table of 256 grey levels per
image and channel; all tables of a batch are then looked up at once.

How we differ: Pillow takes one or three channels, these functions any number. With other numbers,
grey is the mean of the channels, and `color` and `hue` change nothing. Pillow does not move hues:
`hue` is torchvision's for tensors, to a grey level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitrellis.data.augmentation.resampling import cached_parts
from vitrellis.data.channels import luma


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
    """Tables that stretch each channel to all of [0, 255]. They have no strength.

    Args:
        images: `(B, C, H, W)` uint8.
        strengths: Unused.

    Returns:
        `(B, C, 256)` uint8.
    """
    del strengths
    darkest, lightest = images.flatten(2).aminmax(dim=2, keepdim=True)  # (B, C, 1)
    low, high = darkest.double(), lightest.double()
    scale = 255 / (high - low)
    stretched = _grey_levels(images).double() * scale + -low * scale
    return _to_bytes(torch.where(high > low, stretched, _grey_levels(images)))


def equalize(images: Tensor, strengths: Tensor) -> Tensor:
    """Tables that make each channel's histogram flat. They have no strength.

    Args:
        images: `(B, C, H, W)` uint8.
        strengths: Unused.

    Returns:
        `(B, C, 256)` uint8.
    """
    del strengths
    counts = _histograms(images)
    lightest = images.flatten(2).amax(dim=2, keepdim=True).long()
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, lightest)) // 255
    darker = counts.cumsum(dim=2) - counts
    ranks = (step // 2 + darker) // step.clamp_min(1)
    return _to_bytes(torch.where(step > 0, ranks, _grey_levels(images)))


def invert(images: Tensor, strengths: Tensor) -> Tensor:
    """Tables that turn black to white. There is no strength; `(1, 1, 256)` uint8."""
    del strengths
    return _to_bytes(255 - _grey_levels(images)).expand(len(images), -1, -1)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Tables that keep the highest `bits`, `(B,)`; 0 leaves black. `(B, 1, 256)` uint8."""
    low_bits = 8 - bits.long().view(-1, 1, 1)
    return _to_bytes(_grey_levels(images) >> low_bits << low_bits)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Tables that invert levels from `thresholds`, `(B,)`, up. `(B, 1, 256)` uint8."""
    grey = _grey_levels(images)
    return _to_bytes(torch.where(grey < thresholds.view(-1, 1, 1), grey, 255 - grey))


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    """Tables that add `added`, `(B,)`, to levels below 128. `(B, 1, 256)` uint8."""
    grey = _grey_levels(images)
    return _to_bytes(torch.where(grey < 128, grey + added.long().view(-1, 1, 1), grey))


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Tables from black (factor 0) over the image itself (1) to brighter ones.

    Args:
        images: `(B, C, H, W)` uint8.
        factors: `(B,)`.

    Returns:
        `(B, 1, 256)` uint8.
    """
    return _to_bytes(_grey_levels(images) * factors.float().view(-1, 1, 1))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Tables from the image's mean grey (factor 0) over itself (1) to more contrast.

    Args:
        images: `(B, C, H, W)` uint8.
        factors: `(B,)`.

    Returns:
        `(B, 1, 256)` uint8.
    """
    total = _greyscale(images).sum(dim=(1, 2, 3))
    mean = torch.floor(total.double() / images.shape[2:].numel() + 0.5).float().view(-1, 1, 1)
    return _to_bytes(mean + (_grey_levels(images) - mean) * factors.float().view(-1, 1, 1))


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
    return _away_from(_greyscale(images).float(), images, factors)


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
    pixels = images.float()
    columns = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    nine = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    smooth = pixels.clone()  # the border stays as it is
    inner = smooth[..., 1:-1, 1:-1]
    inner.mul_(4).add_(nine).div_(13).add_(0.5).floor_()
    return _away_from(smooth, images, factors)


def _away_from(least: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Image enhancement: `least` for factor 0, the images for 1, and beyond."""
    return _to_bytes(least + (images.float() - least) * factors.float().view(-1, 1, 1, 1))


def _greyscale(images: Tensor) -> Tensor:
    """`(B, 1, H, W)` int32: the luma of three channels, else the mean, rounded."""
    channels = images.shape[1]
    if channels != 3:
        total = images.sum(dim=1, keepdim=True, dtype=torch.int32)
        return (2 * total + channels) // (2 * channels) if channels > 1 else total
    return luma(images)


def _histograms(images: Tensor) -> Tensor:
    """The number of pixels of each level, `(B, C, 256)` int64."""
    rows = images.flatten(0, 1).flatten(1)  # (B * C, H * W)
    first = torch.arange(len(rows), device=images.device)[:, None] * 256
    counts = torch.bincount((rows + first).flatten(), minlength=len(rows) * 256)
    return counts.view(*images.shape[:2], 256)


def _grey_levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device).view(1, 1, 256)


def _to_bytes(levels: Tensor) -> Tensor:
    """Clips, and truncates as Pillow does."""
    return levels.clamp(0, 255).short().to(torch.uint8)  # faster than straight from floats


LOOK_UPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Contrast": contrast,
    "Brightness": brightness,
}
"""Changes that are tables, by timm's names."""
