"""How good the teachers are, found out before anything is learned from them."""

from __future__ import annotations

from itertools import combinations

from torch import Tensor
from torchmetrics.functional.classification import multiclass_cohen_kappa

from vitrellis.analysis.inference import collect_logits
from vitrellis.data.loader import EvalLoader
from vitrellis.teachers.teacher import TeacherClassifier
from vitrellis.teachers.teachers import Teachers

MIN_USEFUL_KAPPA = 0.1
"""Cohen's kappa under which a teacher is said to be hardly better than guessing."""


def evaluate_teachers(teachers: Teachers, validation: EvalLoader, num_classes: int) -> list[str]:
    """A line for each teacher on the validation images, and for each pair of them.

    Accuracy, and agreement with the labels beyond chance (Cohen's kappa), which a teacher that
    always says the largest class does not have.

    Args:
        teachers: The teachers.
        validation: As the student sees it.
        num_classes: K.
    """
    lines = []
    answers: dict[str, Tensor] = {}
    for name, teacher in teachers.items():
        logits, labels = collect_logits(TeacherClassifier(teacher), validation)
        answers[name] = logits.argmax(dim=-1)
        top1 = (answers[name] == labels).double().mean().item()
        kappa = multiclass_cohen_kappa(answers[name], labels, num_classes).item()
        asked = "offline" if teachers.is_offline(name) else f"{teacher.mode} mode"
        lines.append(
            f"  {name:10} {100 * top1:.1f} % of the validation images right, agreement with the "
            f"labels beyond chance {kappa:.2f}, {asked}"
        )
        if kappa < MIN_USEFUL_KAPPA:
            lines.append("             warning: that is hardly better than guessing")
    for (one, its), (other, others) in combinations(answers.items(), 2):
        same = (its == others).double().mean().item()
        lines.append(f"             {one} and {other} agree on {100 * same:.1f} %")
    return lines
