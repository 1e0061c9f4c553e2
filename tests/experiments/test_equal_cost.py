"""The cost of a training in multiply-adds, against a count by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitrellis.assembly.launch import Finished
from vitrellis.errors import VitrellisError
from vitrellis.experiments.equal_cost import equal_epochs, macs_spent
from vitrellis.models import create_model
from vitrellis.recipe import describe, recipe_from, without_guidance
from vitrellis.recipe.recipe import Recipe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, save_model
from vitrellis.runs.results import CheckpointFigures, Results, RunData


def vit_macs(depth: int) -> int:
    """Of `vit_micro_patch7_28` with one channel and ten classes: 17 tokens of width 96."""
    tokens, width = 17, 96
    linear = (3 + 1 + 2 + 2) * tokens * width**2  # queries, keys, values; projection; perceptron
    attention = 2 * tokens**2 * width
    return depth * (linear + attention) + 16 * 49 * width + width * 10


def complete(
    path: Path, recipe: Recipe, *, images: int, depth: int = 4, teachers: Any = None
) -> Finished:
    run = RunDirectory(path)
    path.mkdir()
    run.recipe_file.write_text(describe(recipe))
    run.write_data(RunData("f", tuple("abcdefghij"), (6,) * 10))
    export(run.best_model, depth)
    for name in recipe.all_teachers:
        export(run.teacher_model(name), 1)
    figures = CheckpointFigures(epoch=0, val_top1=0.5)
    results = Results(
        recipe=recipe.name,
        model="m",
        parameters=1,
        seed=0,
        epochs=recipe.training.epochs,
        seconds=2.0,
        images_per_second=images / 2,
        best=figures,
        last=figures,
    )
    return Finished(run, results, teachers or {})


def export(folder: Path, depth: int) -> None:
    arguments = {"depth": depth, "in_chans": 1, "img_size": 28}
    name = "vit_micro_patch7_28"
    save_model(
        create_model(name, num_classes=10, **arguments),  # type: ignore[arg-type]
        folder,
        architecture=name,
        num_classes=10,
        model_args={"depth": depth},
        class_names=[str(k) for k in range(10)],
        preprocessing=Preprocessing((28, 28), 1, (0.5,), (0.25,), "bilinear"),
    )


def guided(**sections: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name": "vit_micro_patch7_28"},
        "teacher": {"recipe": "demo-teacher"},
        "objective": {"kd": {"weight": 1.0}},
        "training": {"epochs": 10},
    }
    return recipe_from(values | sections)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, 600 * (3 * vit_macs(4) + vit_macs(1))),
        (  # its outputs were computed once for each of the 60 images
            {"teacher": {"recipe": "demo-teacher", "offline": True}},
            600 * 3 * vit_macs(4) + 60 * vit_macs(1),
        ),
        (  # two gradients in the epochs 3 to 9
            {"optimizer": {"sam": {"rho": [[0, 0.0], [3, 0.1]]}}},
            1.7 * 600 * (3 * vit_macs(4) + vit_macs(1)),
        ),
    ],
)
def test_the_multiply_adds_of_a_guided_run(
    tmp_path: Path, sections: dict[str, Any], expected: float
) -> None:
    run = complete(tmp_path / "guided", guided(**sections), images=600)
    assert macs_spent(run) == pytest.approx(expected, rel=1e-6)


def test_a_control_has_as_many_as_student_and_teacher(tmp_path: Path) -> None:
    recipe = guided()
    alone_recipe = without_guidance(recipe)
    teacher = complete(tmp_path / "teacher", without_guidance(recipe), images=1200, depth=1)
    student = complete(tmp_path / "s", recipe, images=600, teachers={"teacher": teacher})
    alone = complete(tmp_path / "alone", alone_recipe, images=600)
    spent = 600 * (3 * vit_macs(4) + vit_macs(1)) + 1200 * 3 * vit_macs(1)
    epochs = round(10 * spent / (600 * 3 * vit_macs(4)))
    assert epochs == 16
    assert equal_epochs(alone_recipe, student, alone, "multiply-adds") == epochs
    assert equal_epochs(alone_recipe, student, alone, "seconds") == 20  # each took 2 s
    with pytest.raises(VitrellisError, match="the run of its teacher was deleted"):
        equal_epochs(alone_recipe, replace(student, teachers={}), alone, "seconds")
