"""Logits of a whole split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrellis.data.loader import EvalLoader
from vitrellis.errors import VitrellisError


@torch.no_grad()
def collect_logits(
    model: nn.Module, loader: EvalLoader, progress: Callable[[], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Runs a model in eval mode over a split.

    Args:
        model: Its mode is restored afterwards.
        loader: On the model's device.
        progress: Called after each batch.

    Returns:
        Logits `(N, K)` float32 and labels `(N,)` int64, on the CPU.

    Raises:
        VitrellisError: If the split is empty.
    """
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in loader:
        logits.append(model(batch.images).float().cpu())
        labels.append(batch.labels.cpu())
        if progress is not None:
            progress()
    model.train(was_training)
    if not logits:
        raise VitrellisError("there are no images to evaluate on")
    return torch.cat(logits), torch.cat(labels)
