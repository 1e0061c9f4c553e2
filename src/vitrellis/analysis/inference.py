"""Runs a model over a whole split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.loader import EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.models import check_finite_outputs, separate_heads

Gather = Callable[[Any], list[Any]]
"""Returns the values of all processes, in their order, in each of them."""

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


def collect_from_all(
    model: nn.Module,
    loader: EvalLoader,
    gather: Gather,
    progress: ProgressCallback | None = None,
) -> Predictions:
    """Runs a model over a split, of which each process has a part, and returns all of it in each.

    Args:
        model: Its mode is restored afterwards.
        loader: This process's part of the images, possibly none; the parts follow each other.
        gather: Gathers values from all processes.
        progress: Called after each batch, with the number of batches done and of all.

    Raises:
        VitrellisError: In all processes, for the reasons of `collect_predictions` in any.
    """
    mine, error = None, None
    try:
        if len(loader):
            mine = collect_predictions(model, loader, progress)
    except VitrellisError as raised:
        error = raised
    gathered = gather((mine, None if error is None else str(error)))
    texts = [text for _, text in gathered if text is not None]
    if texts:
        shared = error if error is not None and str(error) == texts[0] else VitrellisError(texts[0])
        shared.is_shared = True
        raise shared
    parts: list[Predictions] = [part for part, _ in gathered if part is not None]
    if not parts:
        raise VitrellisError("there are no images to evaluate on")
    return Predictions(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.labels for part in parts]),
        {head: torch.cat([part.heads[head] for part in parts]) for head in parts[0].heads},
    )


def _name(loader: EvalLoader, first: int, position: int) -> str:
    """The name of an image of the batch that begins with the image at `first`."""
    return loader.name(first + position)
