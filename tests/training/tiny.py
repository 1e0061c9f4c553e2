"""Trains a tiny student in this process, for tests of what a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import vitrellis
from vitrellis.assembly.launch import Finished
from vitrellis.recipe import recipe_from


def tiny(
    tmp_path: Path, name: str = "run", count: int = 48, on_epoch_end: Any = None, **changes: Any
) -> Finished:
    """Trains a tiny ViT on coloured squares."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 80, (count, 3, 28, 28), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 120
    values: dict[str, Any] = {
        "name": name,
        "data": {"val_fraction": 0.25},
        "input": {"img_size": 28},
        "augmentation": {"crop": "padded", "padding": 2},
        "model": {"name": "vit_micro_patch7_28"},
        "optimizer": {"lr": 1e-3},
        "training": {"epochs": 2, "batch_size": 12, "clip_grad": 1.0},
        "machine": {"accelerator": "cpu", "threads": 1},
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            values.setdefault(section, {})[field] = value
        else:
            values[section] = value
    source = vitrellis.from_tensors(images, labels)
    return vitrellis.train(
        recipe_from(values), source=source, out=tmp_path / name, on_epoch_end=on_epoch_end
    )


def guided_weights(finished: Finished) -> dict[str, torch.Tensor]:
    """Everything that a finished run has learned, by name."""
    path = finished.run.last_checkpoint
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["guided"]
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
