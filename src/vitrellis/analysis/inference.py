"""Logits of a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrellis.data.loader import EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.models import separate_heads

HEADS = ("class", "distillation")


class Predictions(NamedTuple):
    """What a model says of a split, on the CPU."""

    logits: Tensor
    """`(N, K)` float32, of the model as a whole."""
    labels: Tensor
    """`(N,)` int64."""
    heads: dict[str, Tensor]
    """`(N, K)` of each of `HEADS`, if the model has both: `logits` is their mean."""


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
    predictions = collect_predictions(model, loader, progress)
    return predictions.logits, predictions.labels


@torch.no_grad()
def collect_predictions(
    model: nn.Module, loader: EvalLoader, progress: Callable[[], None] | None = None
) -> Predictions:
    """Runs a model in eval mode over a split, and keeps what each of its heads says.

    Args:
        model: Its mode is restored afterwards.
        loader: On the model's device.
        progress: Called after each batch.

    Raises:
        VitrellisError: If the split is empty.
    """
    was_training = model.training
    model.eval()
    outputs, labels = [], []
    with separate_heads(model):
        for batch in loader:
            found = model(batch.images)
            heads = found if isinstance(found, tuple) else (found,)
            outputs.append(torch.stack([logits.float().cpu() for logits in heads]))
            labels.append(batch.labels.cpu())
            if progress is not None:
                progress()
    model.train(was_training)
    if not outputs:
        raise VitrellisError("there are no images to evaluate on")
    by_head = torch.cat(outputs, dim=1)  # (heads, N, K)
    separate = dict(zip(HEADS, by_head, strict=True)) if len(by_head) == len(HEADS) else {}
    return Predictions(by_head.mean(dim=0), torch.cat(labels), separate)
