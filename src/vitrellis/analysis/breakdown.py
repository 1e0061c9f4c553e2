"""Figures of a split as a whole, of groups of classes, and of each head of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrellis.analysis.groups import Grouping
from vitrellis.analysis.inference import Predictions
from vitrellis.analysis.metrics import Evaluation


@dataclass(frozen=True)
class Breakdown:
    """All that is known of how good a model is on a split.

    Attributes:
        overall: Of the model as a whole.
        heads: Of its class head, its distillation head and their average, which is `overall`; empty
            if it has one head.
        groupings: Ways to tell head, mid and tail classes apart; none if they are alike.
        class_counts: Training images of each class, None if they are not known.
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
            predictions: Of a split.
            class_names: K of them.
            class_counts: Training images of each class, None if they are not known.
            groupings: Of the classes.

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

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        figures = self.overall.to_dict()
        if self.class_counts is not None:
            for row, count in zip(figures["per_class"], self.class_counts, strict=True):
                row["training_images"] = count
        figures["groups"] = self._groups(self.overall)
        figures["heads"] = {
            name: {
                "top1": evaluation.top1,
                "top5": evaluation.top5,
                "balanced_accuracy": evaluation.balanced_accuracy,
                "groups": self._groups(evaluation),
                "recall": [row["recall"] for row in evaluation.per_class()],
            }
            for name, evaluation in self.heads.items()
        }
        return figures

    def _groups(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        return [grouping.to_dict(evaluation.confusion) for grouping in self.groupings]
