"""From a recipe's objective to its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitrellis.errors import UsageError, under_key
from vitrellis.models import block_channels, forward_with_maps, has_distillation_head, num_blocks
from vitrellis.objectives import Head, Objective, Term, TermContext, TermSection, build_weight
from vitrellis.recipe import Recipe
from vitrellis.runs.exported import Preprocessing
from vitrellis.teachers.teacher import Teacher
from vitrellis.teachers.teachers import Teachers


@dataclass(frozen=True)
class _Tapped:
    """A model with the size of its images, which decides the sizes of its maps.

    Attributes:
        key: The recipe's key of the blocks that are tapped, for messages.
    """

    key: str
    model: nn.Module
    num_channels: int
    img_size: tuple[int, int]

    def num_blocks(self) -> int:
        with under_key(self.key):
            return num_blocks(self.model)

    def channels(self, blocks: Sequence[int]) -> list[int]:
        with under_key(self.key):
            return block_channels(self.model, blocks, self.num_channels, self.img_size)


def build_objective(
    recipe: Recipe,
    student: nn.Module,
    preprocessing: Preprocessing,
    teachers: Teachers,
    *,
    class_counts: Tensor,
    own_terms: Sequence[Term] = (),
) -> Objective:
    """Builds all terms of a recipe, and adds them up.

    With several teachers, a term that learns from a teacher is built once for each of them.

    Args:
        recipe: The recipe, whose `objective` and `deferred` are read.
        student: The student with its initial weights.
        preprocessing: The preprocessing of the student's images.
        teachers: The teachers by name.
        class_counts: `(K,)` training images of each class.
        own_terms: Further terms, from Python.

    Raises:
        UsageError: If the student has a distillation head that no term trains, or a class has no
            image where its rarity matters.
    """
    deferred = recipe.deferred
    phases = deferred.phases(recipe.training.epochs, class_counts) if deferred is not None else {}

    def build(
        section: TermSection, name: str, factor: float = 1.0, teacher: Teacher | None = None
    ) -> Term:
        key = f"objective.{section.key}"
        own = f"{key}.student_blocks" if hasattr(section, "student_blocks") else key
        context = TermContext(
            name=name,
            weight=build_weight(section.weight, factor),
            student=_Tapped(own, student, preprocessing.channels, preprocessing.img_size),
            teacher=None
            if teacher is None
            else _Tapped(
                f"{key}.teacher_blocks", teacher.model, teacher.channels, teacher.img_size
            ),
            class_counts=class_counts,
            phases=phases,
            forward_with_maps=forward_with_maps,
        )
        term = section.build(context)
        term.key = key
        return term

    sections, guided = recipe.objective.terms, recipe.objective.guided_terms
    terms = [build(section, key) for key, section in sections.items() if key not in guided]
    for teacher_name, teacher in teachers.items():
        for key, section in guided.items():
            factor = recipe.teachers_of(key).get(teacher_name)
            if factor is None:
                continue
            name = key if recipe.teacher is not None else f"{key}_{teacher_name}"
            term = build(section, name, factor, teacher)
            term.teacher = teacher_name
            terms.append(term)
    terms += own_terms
    _check_distillation_head(student, [term.head for term in terms])
    return Objective(terms)


def check_trained_heads(recipe: Recipe, student: nn.Module, own_terms: Sequence[Term] = ()) -> None:
    """Makes sure that the student has the heads that the recipe's terms train, and no others.

    Args:
        recipe: The recipe, whose `objective` is read.
        student: The student.
        own_terms: Further terms, from Python.

    Raises:
        UsageError: If a term trains a distillation head and there is none, or none trains one.
    """
    for key, section in recipe.objective.terms.items():
        if section.trained_head == "distillation" and not has_distillation_head(student):
            raise UsageError(
                f"objective.{key}.head: distillation, but {recipe.model.name} has no distillation "
                f"head. Use objective.{key}.head=class, a distilled model such as "
                "deit_tiny_distilled_patch16_224, or model.distillation_head=true"
            )
    trained = [section.trained_head for section in recipe.objective.terms.values()]
    _check_distillation_head(student, [*trained, *(term.head for term in own_terms)])


def _check_distillation_head(student: nn.Module, trained_heads: Sequence[Head]) -> None:
    if has_distillation_head(student) and "distillation" not in trained_heads:
        raise UsageError(
            "objective: the student has a distillation head, which takes part in its predictions, "
            "but no term trains it. Give a term of logits (kd, dkd, mlkd, ctkd, hard) "
            "head=distillation, or take a model without one"
        )
