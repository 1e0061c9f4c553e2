"""Changes of a student that do not reach its teacher are named, with what would change it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from vitrellis.recipe import (
    load_recipe,
    notes_on_teachers,
    packaged_recipes,
    recipe_from,
    teacher_recipe,
)

GUIDED = [name for name in packaged_recipes() if load_recipe(name).teacher is not None]


def notes(name: str, overrides: Sequence[str]) -> list[str]:
    return notes_on_teachers(load_recipe(name, overrides), overrides)


def words_of(note: str) -> list[str]:
    """The words that a note asks for."""
    return shlex.split(note.rpartition("add: ")[2])


@pytest.mark.parametrize("name", GUIDED)
def test_no_recipe_has_a_note_on_its_own_settings(name: str) -> None:
    assert notes(name, []) == []
    assert notes(name, ["seed=3", "data.root=x", "machine.threads=2", "name=a"]) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["input.img_size=32"],
        ["training.epochs=7"],
        ["input.img_size=[40, 24]", "augmentation.flip=0", "augmentation.rand_augment=rand-m5"],
        ["data.sampler=square_root"],
        ["input={normalization: {mean: [0.5], std: [0.2]}, fit: crop}"],
        ["augmentation.padding=1", "training.batch_size=16", "training.drop_last=false"],
    ],
    ids=" ".join,
)
def test_the_words_that_are_printed_change_the_teacher(overrides: list[str]) -> None:
    """Typed beside the others, they leave nothing to say, and the teacher has the same values."""
    (note,) = notes("demo", overrides)
    typed = [*overrides, *words_of(note)]
    assert notes("demo", typed) == []
    student = load_recipe("demo", typed)
    teacher = teacher_recipe(student)
    for override in overrides:
        section, _, key = override.partition("=")[0].partition(".")
        of_student, of_teacher = getattr(student, section), getattr(teacher, section)
        if key:
            of_student, of_teacher = getattr(of_student, key), getattr(of_teacher, key)
            assert of_teacher == of_student
        else:
            assert of_teacher.normalization == of_student.normalization


def test_the_note_names_the_teachers_own_value() -> None:
    (note,) = notes("demo", ["input.img_size=32", "training.epochs=36", "optimizer.lr=1e-4"])
    assert "demo-teacher keeps input.img_size 28, training.epochs 30." in note
    assert "optimizer" not in note


def test_there_is_no_note_where_the_teacher_has_the_value_or_another_by_hand() -> None:
    assert notes("cifar100-deit-ti-lg", ["training.epochs=300", "input.img_size=32"]) == []
    assert notes("demo", ["input.img_size=32", "teacher.overrides.input.img_size=30"]) == []
    assert notes("demo", ["input.img_size=32", "teacher.run=runs/x"]) == []


def test_each_of_several_teachers_has_its_note() -> None:
    recipe = recipe_from(
        {
            "extends": "demo-alone",
            "teachers": {"a": {"recipe": "demo-teacher"}, "b": {"run": "x"}},
            "objective": {"kd": {}},
        },
        ["input.img_size=32"],
    )
    (note,) = notes_on_teachers(recipe, ["input.img_size=32"])
    assert words_of(note) == ["teachers.a.overrides.input.img_size=32"]


def test_a_teacher_sees_as_many_channels_as_its_student() -> None:
    student = load_recipe("demo", ["input.channels=3"])
    assert teacher_recipe(student).input.channels == 3
    assert teacher_recipe(load_recipe("demo")).input.channels is None
