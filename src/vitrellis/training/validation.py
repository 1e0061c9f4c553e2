"""The figures of the validation images, over all processes."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from vitrellis.analysis.inference import collect_logits
from vitrellis.analysis.metrics import class_balanced_accuracy, count_by_class
from vitrellis.data.loader import EvalLoader
from vitrellis.devices import longest_float
from vitrellis.errors import VitrellisError
from vitrellis.training.divergence import DivergenceGuard


def validation_figures(
    fabric: Fabric, guard: DivergenceGuard, model: nn.Module, loader: EvalLoader
) -> dict[str, float]:
    """Accuracy, class-balanced accuracy and mean cross-entropy.

    Args:
        fabric: Fabric, launched.
        guard: Tells the other processes of an error.
        model: The model that is evaluated.
        loader: This process's part of the validation images.

    Returns:
        `val_top1` and `val_balanced`, as fractions, and `val_loss`.

    Raises:
        VitrellisError: If logits are not finite, in all processes.
    """
    error = None
    logits = labels = torch.empty(0)
    try:
        with fabric.autocast():
            logits, labels = collect_logits(model, loader)
    except VitrellisError as raised:
        error = raised
    if guard.any_process(error is not None):
        raise error or VitrellisError("another process could not evaluate the validation images")
    num_classes = logits.shape[1]
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum").double()
    counts = count_by_class(logits.argmax(dim=-1), labels, num_classes)
    sums = torch.cat([*counts, loss.view(1)])
    sums = sums.to(fabric.device, longest_float(fabric.device))
    reduced = fabric.all_reduce(sums, reduce_op="sum")
    assert isinstance(reduced, Tensor)
    right, images, total = reduced.cpu().split([num_classes, num_classes, 1])
    return {
        "val_top1": (right.sum() / images.sum()).item(),
        "val_balanced": class_balanced_accuracy(right, images),
        "val_loss": (total / images.sum()).item(),
    }
