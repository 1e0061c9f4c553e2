"""Figures of the published loss functions: values and gradients, with the rule for their inputs.

`losses.*`, `distillation.*` and `reweighting.*` are sections of the reference vectors; the JSON
says in words what was computed, from which sources, and within which tolerance it is to be met.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

VALUE_TOLERANCE = 1e-4
"""The relative tolerance of a loss."""
GRADIENT_TOLERANCE = 1e-4
"""The tolerance of a gradient, relative to its largest entry."""

_FOLDER = Path(__file__).parent
CASES: dict[str, Any] = {}
_ARRAYS: dict[str, Any] = {}
for _name in ("losses", "distillation", "reweighting"):
    CASES |= json.loads((_FOLDER / f"{_name}.json").read_text())
    with np.load(_FOLDER / f"{_name}.npz") as _arrays:
        _ARRAYS |= dict(_arrays)


def described_input(entry: dict[str, Any]) -> Tensor:
    """The tensor of an entry `{seed, shape, gain}`, ready to be differentiated."""
    generator = np.random.Generator(np.random.Philox(key=entry["seed"]))
    values = generator.standard_normal(entry["shape"]).astype(np.float32)
    return torch.from_numpy(values * np.float32(entry["gain"])).requires_grad_()


def described_weight(entry: dict[str, Any]) -> Tensor:
    """The tensor of an entry `{key, shape}` of a convolution."""
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(entry["key"].encode())))
    values = generator.standard_normal(entry["shape"]).astype(np.float32)
    if len(entry["shape"]) == 1:  # a bias
        return torch.from_numpy(np.float32(0.1) * values)
    return torch.from_numpy(values / np.float32(math.sqrt(math.prod(entry["shape"][1:]))))


def recorded(name: str) -> Tensor:
    """An array by its name in the NPZ."""
    return torch.from_numpy(_ARRAYS[name])


def assert_gradient(gradient: Tensor | None, entry: dict[str, Any]) -> None:
    """Checks a gradient against the recorded one, of which large ones are sub-sampled."""
    assert gradient is not None
    assert list(gradient.shape) == entry["shape"]
    expected = recorded(entry["array"])
    stride = entry["slice"]["flat_stride"] if entry.get("slice") else 1
    mine = gradient.reshape(-1)[::stride]
    tolerance = GRADIENT_TOLERANCE * expected.abs().max().item()
    torch.testing.assert_close(mine, expected.reshape(-1), rtol=0, atol=tolerance)
    assert math.isclose(gradient.norm().item(), entry["l2"], rel_tol=GRADIENT_TOLERANCE)
