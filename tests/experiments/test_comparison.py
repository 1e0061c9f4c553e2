"""How long controls are trained, by trainings of a known length that take no time."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from vitrellis.assembly.launch import Finished
from vitrellis.experiments import comparison
from vitrellis.experiments.comparison import Measured, compare
from vitrellis.experiments.comparison_plan import Arm, units
from vitrellis.recipe import Recipe, describe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import CheckpointFigures, Results


def finished(recipe: Recipe, out: Path, seconds: float) -> Finished:
    figures = CheckpointFigures(epoch=0, val_top1=0.5)
    results = Results(
        recipe=recipe.name,
        model=recipe.model.name,
        parameters=1,
        seed=recipe.seed,
        epochs=recipe.training.epochs,
        seconds=seconds,
        images_per_second=None,
        best=figures,
        last=figures,
    )
    run = RunDirectory(out)
    out.mkdir(parents=True, exist_ok=True)
    run.recipe_file.write_text(describe(recipe))
    return Finished(run, results)


@pytest.mark.parametrize(
    ("seconds_alone", "epochs"),
    [(8.0, 50), (8.1, 49), (400.0, 10)],  # 40 s are spent; never fewer epochs than the student
)
def test_a_control_takes_as_long_as_student_and_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds_alone: float, epochs: int
) -> None:
    def train(recipe: Recipe, *, out: Path, console: Console) -> Finished:
        if not recipe.all_teachers:
            return finished(recipe, out, seconds_alone)
        teacher = finished(recipe, out / "teacher", seconds=10)
        student = finished(recipe, out, seconds=30)
        return Finished(student.run, student.results, {"teacher": teacher})

    monkeypatch.setattr(comparison, "train", train)
    arm = Arm("mine", "demo", ("training.epochs=10",), controls=True)
    rows: list[Measured] = compare(
        [arm], units(1), out=tmp_path, console=Console(file=io.StringIO())
    )
    assert [(row.role, row.arm, row.epochs) for row in rows if row.role != "teacher"] == [
        ("student", "mine", 10),
        ("control", "mine, unguided", 10),
        ("control", "mine, unguided, same seconds", epochs),
    ]
