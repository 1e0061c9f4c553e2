"""Position embeddings and tables in weights that were made for images of another size.

A state dict holds positions as rows, and does not say how many were beside each other: 64 tokens
are 8x8 or 4x16. So the grids are recorded in the `config.json` of an exported model. Where none is
known, a number of rows that is a square stands for a square, as in all published checkpoints, and
any other is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from timm.models.convit import GPSA, ConVit
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import VitrellisError

Grid = tuple[int, int]
"""Rows and columns."""

TABLE = "relative_position_bias_table"
"""timm's name of a table with one row per offset between two places of a window."""


class Resampling(NamedTuple):
    """How position embeddings are interpolated.

    Attributes:
        mode: "bicubic" or "bilinear", as in `torch.nn.functional.interpolate`.
        antialias: Whether a smaller grid averages what it leaves out. timm's default.
    """

    mode: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = True


TIMMS = Resampling()
"""timm's way, and ours where nothing else was published."""

PLAIN_BICUBIC = Resampling("bicubic", antialias=False)
"""The way of DeiT's own code, of those that descend from it, and of Swin's."""


@dataclass(frozen=True)
class Positions:
    """A tensor of a model that holds a value for each place of a grid.

    Attributes:
        grid: The rows and columns of the model's own tensor.
        layout: "tokens" for `(1, prefix + H * W, C)`, "map" for `(1 or heads, C or 1, H, W)` and
            `(heads, H, W)`, "table" for `(H * W + extra, heads)`.
        num_others: The number of rows without a place: class and distillation tokens, which come
            first, or a table's rows for the class token, which come last.
    """

    grid: Grid
    layout: Literal["tokens", "map", "table"]
    num_others: int = 0

    def grid_of(self, value: Tensor, name: str, label: str) -> Grid:
        """The grid of another such tensor, as far as its shape tells.

        Args:
            value: The tensor.
            name: Its name, for the message.
            label: The origin of the weights, for the message.

        Raises:
            VitrellisError: If the number of places is not a square.
        """
        if self.layout == "map":
            return (value.shape[-2], value.shape[-1])
        places = self._num_places(value)
        side = math.isqrt(max(places, 0))
        if side < 1 or side * side != places:
            raise VitrellisError(
                f"{label}: {name} holds {places} places, which are no square, and no config.json "
                "beside the file says how they lie. Give the size of the images that the weights "
                "were made for: init.weights_img_size=[HEIGHT, WIDTH] (from Python, "
                "weights_img_size)"
            )
        return (side, side)

    def resample(
        self, value: Tensor, old: Grid, name: str, label: str, resampling: Resampling
    ) -> Tensor:
        """The tensor of a model of this grid, from that of the grid `old`.

        Raises:
            VitrellisError: If the tensor is not one of the grid `old`.
        """
        places = math.prod(value.shape[-2:]) if self.layout == "map" else self._num_places(value)
        if places != math.prod(old):
            raise VitrellisError(
                f"{label}: {name} has shape {tuple(value.shape)}, which is not that of "
                f"{old[0]}x{old[1]} places, the recorded or given ones. Give the size of the "
                "images that the weights were made for: init.weights_img_size=[HEIGHT, WIDTH]"
            )
        if old == self.grid:
            return value
        if self.layout == "tokens":
            return resample_tokens(value, old, self.grid, self.num_others, resampling)
        if self.layout == "map":
            maps = value if value.ndim == 4 else value.unsqueeze(0)
            return _interpolate(maps, self.grid, resampling).reshape(*value.shape[:-2], *self.grid)
        return _resample_table(value, old, self.grid)

    def _num_places(self, value: Tensor) -> int:
        rows = value.shape[1] if self.layout == "tokens" else value.shape[0]
        return rows - self.num_others


def position_tensors(model: nn.Module) -> dict[str, Positions]:
    """The tensors of a model that depend on the size of its images, by name.

    Found are position embeddings of timm's and our transformers, and tables of relative positions.
    """
    found = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            positions = _positions(module, name, parameter)
            if positions is not None:
                found[f"{prefix}.{name}" if prefix else name] = positions
    return found


def position_grids(model: nn.Module) -> dict[str, Grid]:
    """The grid of each of `position_tensors`, as `config.json` records it."""
    return {name: positions.grid for name, positions in position_tensors(model).items()}


def resample_positions(
    state: Mapping[str, Tensor],
    model: nn.Module,
    grids: Mapping[str, Grid],
    label: str,
    resampling: Resampling = TIMMS,
) -> dict[str, Tensor]:
    """Weights with their positions at the size of a model.

    Args:
        state: Weights by the model's names.
        model: The model that they are for.
        grids: The grids that the weights were made for, by name, as far as they are known.
        label: The origin of the weights, for messages.
        resampling: How to interpolate position embeddings.

    Raises:
        VitrellisError: If a grid is not known, or is not that of the tensor.
    """
    fitted = dict(state)
    for name, positions in position_tensors(model).items():
        if name in fitted:
            value = fitted[name]
            old = grids[name] if name in grids else positions.grid_of(value, name, label)
            fitted[name] = positions.resample(value, old, name, label, resampling)
    return fitted


def resample_tokens(
    value: Tensor, old: Grid, new: Grid, num_prefix: int, resampling: Resampling = TIMMS
) -> Tensor:
    """Position embeddings `(1, prefix + H * W, C)` from one grid to another.

    The first `num_prefix` rows stay as they are.
    """
    # timm's `resample_abs_pos_embed` takes equal numbers of tokens for equal grids in some versions
    prefix, places = value[:, :num_prefix], value[:, num_prefix:]
    maps = _interpolate(places.mT.unflatten(-1, old), new, resampling)
    return torch.cat([prefix, maps.flatten(2).mT], dim=1)


class GridAttention(GPSA):
    """ConViT's positional attention on a grid that is not square.

    timm's takes any number of patches for a square: 2x8 for 4x4.
    """

    grid: Grid

    def get_rel_indices(self, num_patches: int) -> Tensor:
        """`(1, N, N, 3)`: columns and rows from each patch to each, and the squared distance."""
        assert num_patches == math.prod(self.grid), "the patches are not those of the grid"
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in self.grid)
        places = torch.cartesian_prod(rows, columns)  # (N, 2)
        down, across = (places.unsqueeze(0) - places.unsqueeze(1)).unbind(-1)  # (N, N)
        indices = torch.stack([across, down, across.square() + down.square()], dim=-1)
        return indices.unsqueeze(0).to(self.qk.weight)


def attend_on_grid(model: nn.Module) -> None:
    """Lets a ConViT know where its patches are, if its images are not square."""
    if isinstance(model, ConVit):
        height, width = model.patch_embed.grid_size
        for module in model.modules():
            if isinstance(module, GPSA) and height != width:
                module.__class__ = GridAttention
                module.grid = (height, width)  # type: ignore[assignment]


@dataclass(frozen=True)
class MadeFor:
    """What is known of a file of weights, and of the images that it was made for.

    Attributes:
        img_size: Their size `(H, W)`.
        grids: The grids of the position tensors, by name.
        architecture: The name of the model that the weights are of.
        mean: The mean of each channel that images were normalised by.
        std: The standard deviation of each channel.
    """

    img_size: Grid | None = None
    grids: Mapping[str, Grid] = field(default_factory=dict)
    architecture: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def made_for(weights: Path) -> MadeFor:
    """What the `config.json` beside a file of weights, or in their folder, says, ours or timm's.

    Raises:
        VitrellisError: If it cannot be read.
    """
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    if not path.is_file():
        return MadeFor()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VitrellisError(f"{path}: cannot be read as JSON ({error})") from error
    ours = _mapping(_mapping(config).get("vitrellis"))
    grids = {name: _pair(grid) for name, grid in _mapping(ours.get("position_grids")).items()}
    input_size = _mapping(_mapping(config).get("pretrained_cfg")).get("input_size")
    sizes = (
        _mapping(ours.get("preprocessing")).get("img_size"),
        _mapping(_mapping(config).get("model_args")).get("img_size"),
        input_size[1:] if isinstance(input_size, list) else None,
    )
    img_size = next((pair for pair in map(_pair, sizes) if pair is not None), None)
    architecture = _mapping(config).get("architecture")
    cfg = _mapping(_mapping(config).get("pretrained_cfg"))
    return MadeFor(
        img_size,
        {name: grid for name, grid in grids.items() if grid is not None},
        architecture if isinstance(architecture, str) else None,
        _numbers(cfg.get("mean")),
        _numbers(cfg.get("std")),
    )


def _numbers(value: object) -> tuple[float, ...]:
    is_list = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
    return tuple(value) if is_list and isinstance(value, list) else ()


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _pair(value: object) -> Grid | None:
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return (value[0], value[1])
    return None


def _positions(module: nn.Module, name: str, parameter: Tensor) -> Positions | None:
    if name == TABLE:
        window: Any = getattr(module, "window_size", None)
        if window is None:
            return None
        grid = (2 * window[0] - 1, 2 * window[1] - 1)
        if parameter.ndim == 3:
            return Positions(grid, "map")
        return Positions(grid, "table", parameter.shape[0] - math.prod(grid))
    if name != "pos_embed":
        return None
    embedding: Any = getattr(module, "patch_embed", None)
    if parameter.ndim == 4:  # PiT's, channels first
        size = (getattr(embedding, "height", None), getattr(embedding, "width", None))
        grid = (parameter.shape[-2], parameter.shape[-1])
        return Positions(grid, "map") if size == grid else None
    own: Any = getattr(module, "grid", None) or getattr(embedding, "grid_size", None)
    if own is None or parameter.ndim != 3:
        return None
    grid = (int(own[0]), int(own[1]))
    num_prefix = parameter.shape[1] - math.prod(grid)
    return Positions(grid, "tokens", num_prefix) if num_prefix >= 0 else None


def _interpolate(maps: Tensor, size: Grid, resampling: Resampling) -> Tensor:
    """`(B, C, H, W)` to another size, in float32 whatever the maps are in."""
    resized = F.interpolate(
        maps.float(), size, mode=resampling.mode, antialias=resampling.antialias
    )
    return resized.to(maps.dtype)


def _resample_table(value: Tensor, old: Grid, new: Grid) -> Tensor:
    """A table of relative positions, interpolated as in Swin's own code."""
    places, others = value[: math.prod(old)], value[math.prod(old) :]
    maps = _interpolate(places.mT.unflatten(-1, old).unsqueeze(0), new, PLAIN_BICUBIC)
    return torch.cat([maps[0].flatten(1).mT, others])
