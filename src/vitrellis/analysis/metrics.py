"""Accuracy, F1, calibration and confusion of predictions, by torchmetrics where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from vitrellis.errors import VitrellisError

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class as fractions; None where a figure is undefined.

    Attributes:
        name: The name of the class.
        images: The number of its images.
        recall: The share of its images that are recognised.
        precision: The share of images taken for it that are of it.
        f1: The harmonic mean of recall and precision.
    """

    name: str
    images: int
    recall: float | None
    precision: float | None
    f1: float | None

    def to_json(self) -> dict[str, object]:
        """The figures under the keys of `vitrellis eval --json`."""
        return {
            "class": self.name,
            "images": self.images,
            "recall": self.recall,
            "precision": self.precision,
            "f1": self.f1,
        }


@dataclass(frozen=True)
class Evaluation:
    """The figures of one split, as fractions.

    Attributes:
        class_names: The class names, in order of the class indices.
        num_images: N.
        top1: The share of images whose likeliest class is right.
        top5: The share whose class is among the five likeliest (all, if there are fewer classes).
        balanced_accuracy: The class-balanced accuracy: the mean recall of the classes that occur.
        macro_f1: The mean F1 of the classes that occur or are predicted.
        calibration_error: The expected calibration error of the likeliest class, with 15 bins (Guo
            et al., ICML 2017).
        nll: The mean negative log likelihood, in nats.
        confusion: `(K, K)` int64, rows are the true classes.
    """

    class_names: tuple[str, ...]
    num_images: int
    top1: float
    top5: float
    balanced_accuracy: float
    macro_f1: float
    calibration_error: float
    nll: float
    confusion: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> Evaluation:
        """Evaluates predictions.

        Args:
            logits: `(N, K)`.
            labels: `(N,)` int64.
            class_names: K of them.

        Raises:
            VitrellisError: If there are no predictions, or some are not finite.
        """
        if not len(labels):
            raise VitrellisError("there are no predictions to evaluate")
        non_finite = int((~logits.isfinite().all(dim=1)).sum())
        if non_finite:  # comparisons with NaN are false, so they would count as right
            raise VitrellisError(
                f"{non_finite:,} of {len(labels):,} predictions are not finite numbers: the model "
                "has diverged"
            )
        num_classes = len(class_names)
        assert logits.shape == (len(labels), num_classes), tuple(logits.shape)
        # two classes make one binary problem for torchmetrics' top-k, so ranks are counted here
        true_logits = logits.gather(1, labels[:, None])
        rank = (logits > true_logits).sum(dim=1)
        # of equal logits the first class wins, as with argmax
        before = torch.arange(num_classes) < labels[:, None]
        rank += ((logits == true_logits) & before).sum(dim=1)
        confusion = multiclass_confusion_matrix(logits.argmax(dim=1), labels, num_classes)
        probabilities = logits.softmax(dim=1)
        calibration = multiclass_calibration_error(
            probabilities, labels, num_classes, n_bins=CALIBRATION_BINS
        )
        _, _, f1 = _per_class(confusion)
        return cls(
            class_names=tuple(class_names),
            num_images=len(labels),
            top1=(rank < 1).double().mean().item(),
            top5=(rank < 5).double().mean().item(),
            balanced_accuracy=class_balanced_accuracy(confusion.diagonal(), confusion.sum(dim=1)),
            macro_f1=f1[confusion.sum(dim=1) + confusion.sum(dim=0) > 0].mean().item(),
            calibration_error=calibration.item(),
            nll=F.cross_entropy(logits, labels).item(),
            confusion=confusion,
        )

    def per_class(self) -> list[ClassFigures]:
        """The figures of each class, in order of the class indices."""
        recall, precision, f1 = _per_class(self.confusion)
        true, predicted = self.confusion.sum(dim=1), self.confusion.sum(dim=0)
        return [
            ClassFigures(
                name=name,
                images=int(true[k]),
                recall=recall[k].item() if true[k] else None,
                precision=precision[k].item() if predicted[k] else None,
                f1=f1[k].item() if true[k] + predicted[k] else None,
            )
            for k, name in enumerate(self.class_names)
        ]


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of predicted classes that are right.

    Args:
        predictions: `(N,)` class indices.
        labels: `(N,)` class indices.
    """
    return (predictions == labels).double().mean().item()


def count_by_class(predictions: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The images of each class that are predicted right, and all of them.

    Args:
        predictions: `(N,)` class indices.
        labels: `(N,)` class indices.
        num_classes: K.

    Returns:
        Two `(K,)` int64 tensors, which may be summed over parts of a split.
    """
    right = torch.bincount(labels[predictions == labels], minlength=num_classes)
    return right, torch.bincount(labels, minlength=num_classes)


def class_balanced_accuracy(right: Tensor, images: Tensor) -> float:
    """The mean over the classes that occur of the share of their images that is predicted right.

    Args:
        right: `(K,)` from `count_by_class`.
        images: `(K,)` from `count_by_class`.
    """
    occurs = images > 0
    return (right[occurs].double() / images[occurs]).mean().item()


def _per_class(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Recall, precision and F1, each `(K,)`; 0 where undefined."""
    hits = confusion.diagonal().double()
    true, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    recall, precision = hits / true.clamp_min(1), hits / predicted.clamp_min(1)
    f1 = 2 * hits / (true + predicted).clamp_min(1)
    return recall, precision, f1
