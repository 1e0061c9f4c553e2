"""Which changes of a student's recipe do not reach the teacher that is trained for it.

A teacher has its student's images, seed and machine (`teacher_recipe`), and its own sizes,
augmentation and epochs: a published teacher sees 32 pixels where its student sees 224.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrellis.recipe.loading import parse_overrides, teacher_recipe
from vitrellis.recipe.yaml import in_one_line, override_texts

if TYPE_CHECKING:
    from vitrellis.recipe.recipe import Recipe

_OFTEN_MEANT_FOR_BOTH = ("data", "input", "augmentation", "training")


def notes_on_teachers(recipe: Recipe, overrides: Sequence[str]) -> list[str]:
    """A note on each teacher that the given changes do not reach, with the words that change it.

    Changes of the model, its optimizer, its schedule and its objective are the student's alone and
    are not mentioned; neither is a value that the teacher has in any case.

    Args:
        recipe: The student's recipe, with the changes.
        overrides: The changes, `key=value` as on the command line.

    Raises:
        UsageError: If a teacher's recipe has mistakes.
    """
    changes = parse_overrides(overrides)
    meant = {key: changes[key] for key in _OFTEN_MEANT_FOR_BOTH if changes.get(key) is not None}
    notes = []
    for name, settings in recipe.all_teachers.items():
        if settings.recipe is None:
            continue
        teacher = teacher_recipe(recipe, name)
        missed = list(_missed(recipe, teacher, meant, parse_overrides(settings.overrides)))
        if missed:
            key = "teacher" if recipe.teacher is not None else f"teachers.{name}"
            theirs = ", ".join(in_words for in_words, _ in missed)
            words = " ".join(shlex.quote(f"{key}.overrides.{text}") for _, text in missed)
            notes.append(
                f"these changes reach the student alone; the teacher {teacher.name} keeps "
                f"{theirs}. To change the teacher as well, add: {words}"
            )
    return notes


def _missed(
    recipe: Recipe, teacher: Recipe, meant: Mapping[str, Any], by_hand: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The changes that the teacher lacks: its own value in words, and the change as text."""
    for text in override_texts(meant):
        key = text.partition("=")[0]
        own = _value(teacher, key)
        if own != _value(recipe, key) and _value(by_hand, key) is None:
            yield f"{key} {in_one_line(own)}", text


def _value(section: Any, key: str) -> Any:
    """The value at a dotted key, None if there is none."""
    for part in key.split("."):
        mapping = isinstance(section, Mapping)
        section = section.get(part) if mapping else getattr(section, part, None)
    return section
