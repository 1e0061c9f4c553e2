"""The figures of the validation images, over all processes."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from vitrellis.analysis.inference import collect_logits
from vitrellis.analysis.metrics import class_balanced_accuracy, count_by_class
from vitrellis.data.loader import EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.training.gathering import gathering


def validation_figures(fabric: Fabric, model: nn.Module, loader: EvalLoader) -> dict[str, float]:
    """Accuracy, class-balanced accuracy and mean cross-entropy.

    All processes take the buffers of process 0, which are those that are saved: its statistics of
    batch norms are not those of the others until the next step.

    Args:
        fabric: Fabric, launched.
        model: The model that is evaluated.
        loader: This process's part of the validation images, possibly none.

    Returns:
        `val_top1` and `val_balanced`, as fractions, and `val_loss`.

    Raises:
        VitrellisError: If logits are not finite, in all processes.
    """
    if fabric.world_size > 1:
        of_first = fabric.broadcast([buffer.cpu() for buffer in model.buffers()])
        for buffer, value in zip(model.buffers(), of_first, strict=True):
            buffer.copy_(value)
    error, mine = None, None
    try:
        if len(loader):
            with fabric.autocast():
                mine = _sums(*collect_logits(model, loader))
    except VitrellisError as raised:
        error = raised
    gathered = gathering(fabric)((mine, error is not None))
    if any(has_failed for _, has_failed in gathered):
        raise error or VitrellisError("another process could not evaluate the validation images")
    parts = [part for part, _ in gathered if part is not None]
    right, images = (torch.stack([part[i] for part in parts]).sum(dim=0) for i in range(2))
    total = sum(part[2] for part in parts)
    return {
        "val_top1": int(right.sum()) / int(images.sum()),
        "val_balanced": class_balanced_accuracy(right, images),
        "val_loss": total / int(images.sum()),
    }


def _sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Right answers and images of each class, and the sum of the cross-entropy.

    It is computed in float64, so that it does not depend on how many processes share the images.
    """
    loss = nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
    return *count_by_class(logits.argmax(dim=-1), labels, logits.shape[1]), loss
