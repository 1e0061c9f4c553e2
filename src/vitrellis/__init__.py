"""Vitrellis trains Vision Transformers from scratch when images are few or classes unbalanced."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitrellis.assembly.launch import train
    from vitrellis.data.sources import from_dataset, from_tensors
    from vitrellis.models import create_model, forward_with_maps
    from vitrellis.recipe import load_recipe
    from vitrellis.runs.exported import load_exported

__version__ = "0.1.0"

__all__ = [
    "create_model",
    "forward_with_maps",
    "from_dataset",
    "from_tensors",
    "load_exported",
    "load_recipe",
    "train",
]

_ROOMS = {
    "create_model": "vitrellis.models",
    "forward_with_maps": "vitrellis.models",
    "from_dataset": "vitrellis.data.sources",
    "from_tensors": "vitrellis.data.sources",
    "load_exported": "vitrellis.runs.exported",
    "load_recipe": "vitrellis.recipe",
    "train": "vitrellis.assembly.launch",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: `vitrellis --help` must not load torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'vitrellis' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)
