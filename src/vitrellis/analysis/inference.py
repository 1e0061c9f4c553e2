"""Runs a model over a whole split."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.loader import EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.models import check_finite_outputs, separate_heads

HEADS = ("class", "distillation")
"""The names of a distilled model's heads, in the order of its outputs."""


class Predictions(NamedTuple):
    """The predictions of a model for a split, on the CPU."""

    logits: Tensor
    """The logits of the model as a whole: `(N, K)` float32."""
    labels: Tensor
    """The true classes: `(N,)` int64."""
    heads: dict[str, Tensor]
    """The logits `(N, K)` of each of `HEADS`, if the model has both: `logits` is their mean."""


def collect_logits(
    model: nn.Module, loader: EvalLoader, progress: ProgressCallback | None = None
) -> tuple[Tensor, Tensor]:
    """Runs a model in eval mode over a split.

    Args:
        model: Its mode is restored afterwards.
        loader: The images of the split, on the model's device.
        progress: Called after each batch, with the number of batches done and of all.

    Returns:
        Logits `(N, K)` float32 and labels `(N,)` int64, on the CPU.

    Raises:
        VitrellisError: If the split is empty, or the model computes NaN or infinity: it names the
            first weight, or the first module and image.
    """
    predictions = collect_predictions(model, loader, progress)
    return predictions.logits, predictions.labels


@torch.no_grad()
def collect_predictions(
    model: nn.Module, loader: EvalLoader, progress: ProgressCallback | None = None
) -> Predictions:
    """Runs a model in eval mode over a split, and keeps the logits of each of its heads.

    Args:
        model: Its mode is restored afterwards.
        loader: The images of the split, on the model's device.
        progress: Called after each batch, with the number of batches done and of all.

    Raises:
        VitrellisError: If the split is empty, or the model computes NaN or infinity: it names the
            first weight, or the first module and image.
    """
    was_training = model.training
    model.eval()
    outputs, labels = [], []
    num_done = 0
    with separate_heads(model):
        for batch in loader:
            logits = model(batch.images)
            heads = logits if isinstance(logits, tuple) else (logits,)
            by_head = torch.stack([head.float() for head in heads])  # (heads, B, K)
            check_finite_outputs(
                model, batch.images, by_head.transpose(0, 1), partial(_name, loader, num_done)
            )
            num_done += len(batch.labels)
            outputs.append(by_head.cpu())
            labels.append(batch.labels.cpu())
            if progress is not None:
                progress(len(outputs), len(loader))
    model.train(was_training)
    if not outputs:
        raise VitrellisError("there are no images to evaluate on")
    by_head = torch.cat(outputs, dim=1)  # (heads, N, K)
    separate = dict(zip(HEADS, by_head, strict=True)) if len(by_head) == len(HEADS) else {}
    return Predictions(by_head.mean(dim=0), torch.cat(labels), separate)


def _name(loader: EvalLoader, first: int, position: int) -> str:
    """The name of an image of the batch that begins with the image at `first`."""
    return loader.name(first + position)
