"""The rule that fills models and inputs of the reference cases, and how they are compared.

Facts from the vectors' description: every tensor is drawn from its published name, so that no
weights have to be stored.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent


def weight_by_rule(key: str, shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """The tensor of that name."""
    if not dtype.startswith("float"):
        return np.zeros(shape, dtype)
    bits = np.random.Philox(key=zlib.crc32(key.encode()))
    a = np.random.Generator(bits).standard_normal(tuple(shape)).astype(np.float32)
    if key.endswith("running_var"):
        return np.asarray(np.float32(0.5) + np.abs(a))
    if key.endswith("running_mean"):
        return np.asarray(np.float32(0.1) * a)
    if len(shape) == 1:
        scaled = np.float32(0.1) * a
        return np.asarray(np.float32(1.0) + scaled if key.endswith(".weight") else scaled)
    return np.asarray(a / np.float32(math.sqrt(max(1, math.prod(shape[1:])))))


def state_by_rule(entries: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    """A whole state dict, from a case's `[name, shape, dtype]` list."""
    return {
        key: torch.from_numpy(weight_by_rule(key, tuple(shape), dtype))
        for key, shape, dtype in entries
    }


def reference_input(seed: int, shape: tuple[int, ...], gain: float = 1.0) -> Tensor:
    """The input of that seed."""
    bits = np.random.Philox(key=seed)
    a = np.random.Generator(bits).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(a * np.float32(gain))


def load_case(name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A case's description and its arrays."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return json.loads((FOLDER / f"{name}.json").read_text()), dict(arrays)


def assert_matches(
    mine: Tensor, recorded: NDArray[Any], stride: int, largest: float, factor: float
) -> None:
    """`max|mine - recorded| <= factor * max(1, max|recorded|)`, on every `stride`-th entry."""
    taken = mine.detach().reshape(-1)[::stride].numpy()
    assert taken.shape == recorded.reshape(-1).shape
    assert np.abs(taken - recorded.reshape(-1)).max() <= factor * max(1.0, largest)
