"""Figures of a split as a whole, of groups of classes, and of each head of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrellis.analysis.chance import chance_warnings
from vitrellis.analysis.groups import Grouping
from vitrellis.analysis.inference import Predictions
from vitrellis.analysis.metrics import Evaluation


@dataclass(frozen=True)
class Breakdown:
    """All figures of a model on a split.

    Attributes:
        overall: The figures of the model as a whole.
        heads: The figures of its class head, its distillation head and their average, which is
            `overall`; empty if it has one head.
        groupings: The ways to tell head, mid and tail classes apart; empty if the classes have
            about as many images.
        class_counts: The training images of each class; None if they are not known.
    """

    overall: Evaluation
    heads: dict[str, Evaluation]
    groupings: tuple[Grouping, ...]
    class_counts: tuple[int, ...] | None

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        class_names: Sequence[str],
        *,
        class_counts: Sequence[int] | None,
        groupings: tuple[Grouping, ...],
    ) -> Breakdown:
        """Evaluates predictions.

        Args:
            predictions: The predictions for a split.
            class_names: The K class names.
            class_counts: The training images of each class; None if they are not known.
            groupings: The groups of the classes.

        Raises:
            VitrellisError: If there are no predictions, or some are not finite.
        """
        overall = Evaluation.from_logits(predictions.logits, predictions.labels, class_names)
        heads = {
            name: Evaluation.from_logits(logits, predictions.labels, class_names)
            for name, logits in predictions.heads.items()
        }
        if heads:
            heads["average"] = overall
        counts = None if class_counts is None else tuple(class_counts)
        return cls(overall, heads, groupings, counts)

    @property
    def warnings(self) -> list[str]:
        """Says so if the model is not better than the largest class, or near chance."""
        return chance_warnings(self.overall.confusion, self.overall.class_names)

    def to_json(self) -> dict[str, object]:
        """All figures under the keys of `vitrellis eval --json`."""
        overall = self.overall
        rows = [row.to_json() for row in overall.per_class()]
        if self.class_counts is not None:
            for row, count in zip(rows, self.class_counts, strict=True):
                row["training_images"] = count
        return {
            "images": overall.num_images,
            "top1": overall.top1,
            "top5": overall.top5,
            "balanced_accuracy": overall.balanced_accuracy,
            "macro_f1": overall.macro_f1,
            "calibration_error": overall.calibration_error,
            "nll": overall.nll,
            "warnings": self.warnings,
            "per_class": rows,
            "confusion": overall.confusion.tolist(),
            "groups": self._groups(overall),
            "heads": {
                name: {
                    "top1": evaluation.top1,
                    "top5": evaluation.top5,
                    "balanced_accuracy": evaluation.balanced_accuracy,
                    "groups": self._groups(evaluation),
                    "recall": [row.recall for row in evaluation.per_class()],
                }
                for name, evaluation in self.heads.items()
            },
        }

    def _groups(self, evaluation: Evaluation) -> list[dict[str, object]]:
        return [grouping.to_json(evaluation.confusion) for grouping in self.groupings]
