"""Evaluates the teachers on the validation images, before the student learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_cohen_kappa,
    multiclass_confusion_matrix,
)

from vitrellis.analysis.chance import chance_warnings
from vitrellis.analysis.inference import Gather, collect_from_all
from vitrellis.analysis.metrics import accuracy
from vitrellis.data.loader import EvalLoader
from vitrellis.teachers.teacher import TeacherClassifier
from vitrellis.teachers.teachers import Teachers


def evaluate_teachers(
    teachers: Teachers, validation: EvalLoader, class_names: Sequence[str], gather: Gather
) -> list[str]:
    """A line for each teacher, and one for each pair of teachers.

    A teacher's line gives its accuracy and Cohen's kappa, its agreement with the labels beyond
    chance: a teacher that always predicts the largest class has none. A warning follows if it is
    not better than that, or near chance.

    Args:
        teachers: The teachers.
        validation: This process's part of the validation images, as the student sees them.
        class_names: The K class names.
        gather: Gathers values from all processes.
    """
    num_classes = len(class_names)
    lines = []
    predictions: dict[str, Tensor] = {}
    for name, teacher in teachers.items():
        logits, labels, _ = collect_from_all(TeacherClassifier(teacher), validation, gather)
        predictions[name] = logits.argmax(dim=-1)
        top1 = accuracy(predictions[name], labels)
        kappa = multiclass_cohen_kappa(predictions[name], labels, num_classes).item()
        confusion = multiclass_confusion_matrix(predictions[name], labels, num_classes)
        mode = "offline" if teachers.is_offline(name) else f"{teacher.mode} mode"
        lines.append(
            f"  {name:10} {100 * top1:.1f} % accuracy on the validation images, Cohen's kappa "
            f"{kappa:.2f}, {mode}"
        )
        lines += [
            f"             warning: {name}, validation images: {warning}"
            for warning in chance_warnings(confusion, class_names)
        ]
    for (one, of_one), (other, of_other) in combinations(predictions.items(), 2):
        same = accuracy(of_one, of_other)
        lines.append(
            f"             {one} and {other} give the same answer for {100 * same:.1f} % of them"
        )
    return lines
