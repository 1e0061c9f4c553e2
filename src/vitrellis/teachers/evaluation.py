"""Evaluates the teachers on the validation images, before the student learns from them."""

from __future__ import annotations

from itertools import combinations

from torch import Tensor
from torchmetrics.functional.classification import multiclass_cohen_kappa

from vitrellis.analysis.inference import collect_logits
from vitrellis.analysis.metrics import accuracy
from vitrellis.data.loader import EvalLoader
from vitrellis.teachers.teacher import TeacherClassifier
from vitrellis.teachers.teachers import Teachers

MIN_USEFUL_KAPPA = 0.1
"""A teacher with a smaller Cohen's kappa is called hardly better than guessing."""


def evaluate_teachers(teachers: Teachers, validation: EvalLoader, num_classes: int) -> list[str]:
    """A line for each teacher, and one for each pair of teachers.

    A teacher's line gives its accuracy and Cohen's kappa, its agreement with the labels beyond
    chance: a teacher that always predicts the largest class has none.

    Args:
        teachers: The teachers.
        validation: The validation images, as the student sees them.
        num_classes: The number of classes.
    """
    lines = []
    predictions: dict[str, Tensor] = {}
    for name, teacher in teachers.items():
        logits, labels = collect_logits(TeacherClassifier(teacher), validation)
        predictions[name] = logits.argmax(dim=-1)
        top1 = accuracy(predictions[name], labels)
        kappa = multiclass_cohen_kappa(predictions[name], labels, num_classes).item()
        mode = "offline" if teachers.is_offline(name) else f"{teacher.mode} mode"
        lines.append(
            f"  {name:10} {100 * top1:.1f} % accuracy on the validation images, Cohen's kappa "
            f"{kappa:.2f}, {mode}"
        )
        if kappa < MIN_USEFUL_KAPPA:
            lines.append("             warning: this teacher is hardly better than guessing")
    for (one, of_one), (other, of_other) in combinations(predictions.items(), 2):
        same = accuracy(of_one, of_other)
        lines.append(
            f"             {one} and {other} give the same answer for {100 * same:.1f} % of them"
        )
    return lines
