"""Vitrellis trains Vision Transformers from scratch when images are few or classes unbalanced."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vitrellis.public_names import OldNames, names_of

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

__getattr__ = names_of(  # `vitrellis --help` must not load torch
    __name__,
    on_demand={
        "create_model": "vitrellis.models",
        "forward_with_maps": "vitrellis.models",
        "from_dataset": "vitrellis.data.sources",
        "from_tensors": "vitrellis.data.sources",
        "load_exported": "vitrellis.runs.exported",
        "load_recipe": "vitrellis.recipe",
        "train": "vitrellis.assembly.launch",
    },
)


def __dir__() -> list[str]:
    """All public names, those too that are yet to be imported: for completion in notebooks."""
    return sorted({*globals(), *__all__})


sys.meta_path.append(OldNames)
