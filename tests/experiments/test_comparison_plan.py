"""What waits for what in a comparison, and what becomes of the rest if a training fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.experiments.test_comparison import finished
from vitrellis.assembly.launch import Finished
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments import comparison
from vitrellis.experiments.comparison import SomeFailed, compare
from vitrellis.experiments.comparison_plan import (
    Arm,
    ComparisonPlan,
    Task,
    recipe_of,
    tasks_of,
    units,
)
from vitrellis.experiments.jobs import Job, Outcome
from vitrellis.recipe import Recipe, describe
from vitrellis.training.interrupts import Interrupted

GUIDED = Arm("guided", "demo", controls=True)
OTHER = Arm("other", "demo-lg")
ALONE = Arm("alone", "demo-alone")


def plan_of(*arms: Arm, out: Path, seeds: int = 1) -> ComparisonPlan:
    return ComparisonPlan(
        [t for unit in units(seeds) for t in tasks_of(arms, unit, out, "seconds")]
    )


def started(plan: ComparisonPlan, running: list[Job]) -> list[str]:
    """The names of all trainings that can be started now, which then run."""
    names = []
    while job := plan.next_job(running):
        running.append(job)
        names.append(job.name)
    return names


def test_a_teacher_is_trained_by_one_run_at_a_time(tmp_path: Path) -> None:
    plan = plan_of(GUIDED, OTHER, ALONE, out=tmp_path, seeds=2)
    running: list[Job] = []
    assert started(plan, running) == [
        "guided, seed0",
        "alone, seed0",
        "guided, seed1",
        "alone, seed1",
    ]
    kept = running[0].run.teacher_model("teacher")  # the first has its teacher
    kept.mkdir(parents=True)
    (kept / "config.json").touch()
    assert started(plan, running) == ["other, seed0"]


def test_a_control_waits_for_those_that_it_is_measured_by(tmp_path: Path) -> None:
    plan = plan_of(GUIDED, ALONE, out=tmp_path)
    running: list[Job] = []
    assert started(plan, running) == ["guided, seed0", "alone, seed0"]
    for job, seconds in zip(list(running), (30.0, 10.0), strict=True):
        running.remove(job)
        job.run.path.mkdir(parents=True)
        job.run.recipe_file.write_text(describe(job.recipe))
        ended = finished(job.recipe, job.run.path, seconds)
        teacher = finished(job.recipe, job.run.path / "teacher", 0.0)
        teachers = {"teacher": teacher} if job.recipe.all_teachers else {}
        plan.finish(job, replace(ended, teachers=teachers))
    assert started(plan, running) == ["alone, same seconds, seed0"]
    assert running[0].recipe.training.epochs == 3 * 36


def test_a_control_of_one_that_failed_is_not_trained(tmp_path: Path) -> None:
    plan = plan_of(GUIDED, ALONE, out=tmp_path)
    running: list[Job] = []
    started(plan, running)
    plan.end(Outcome(running[0], "failed", 1, "the loss is nan"))
    plan.finish(running[1], finished(running[1].recipe, running[1].run.path, 1.0))
    assert started(plan, running) == []
    assert plan.errors == {
        "guided, seed0": "the loss is nan",
        "alone, same seconds, seed0": "needs guided, which failed",
    }


class Trainings:
    """Stands for `train`; some of the trainings fail."""

    def __init__(self, errors: dict[str, VitrellisError]) -> None:
        self.errors = errors
        self.trained: list[str] = []

    def __call__(self, recipe: Recipe, *, out: Path, console: Console) -> Finished:
        name = f"{out.parent.name}/{out.name}"
        self.trained.append(name)
        if name in self.errors:
            raise self.errors[name]
        return finished(recipe, out, 1.0)


@pytest.mark.parametrize(
    ("errors", "exit_code"),
    [([VitrellisError("nan"), UsageError("no")], 1), ([UsageError("no"), UsageError("no")], 2)],
)
def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: list[VitrellisError],
    exit_code: int,
) -> None:
    trainings = Trainings(dict(zip(("seed0/alone", "seed1/other"), errors, strict=True)))
    monkeypatch.setattr(comparison, "train", trainings)
    third = Arm("third", "demo-alone", ("training.epochs=40",))
    with pytest.raises(SomeFailed) as failed:
        compare([ALONE, OTHER, third], units(2), out=tmp_path, console=Console(quiet=True))
    assert failed.value.exit_code == exit_code
    assert [(row.arm, row.unit) for row in failed.value.complete] == [
        ("third", "seed0"),
        ("third", "seed1"),
    ]
    assert len(trainings.trained) == 6
    assert ("tries again" in str(failed.value)) == (exit_code == 1)
    if exit_code == 2:
        assert "alone, seed0; other, seed1: no" in str(failed.value)


def test_teachers_in_a_circle_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings({})
    monkeypatch.setattr(comparison, "train", trainings)
    own = tmp_path / "own.yaml"
    own.write_text("extends: demo\nteacher: {recipe: own.yaml}\n")
    with pytest.raises(UsageError, match="in a circle"):
        compare([ALONE, Arm("own", str(own))], units(2), out=tmp_path, console=Console(quiet=True))
    assert trainings.trained == []


def test_ctrl_c_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings({"seed0/alone": Interrupted("stopped")})
    monkeypatch.setattr(comparison, "train", trainings)
    with pytest.raises(Interrupted):
        compare([ALONE, OTHER], units(2), out=tmp_path, console=Console(quiet=True))
    assert trainings.trained == ["seed0/alone"]


def test_seconds_of_trainings_at_the_same_time_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--equal seconds: .* Use --jobs 1 instead of --jobs 2"):
        compare(
            [GUIDED], units(1), out=tmp_path, console=Console(quiet=True), jobs=2, equal="seconds"
        )
    assert not list(tmp_path.iterdir())


def test_a_student_alone_may_have_settings_of_its_own(tmp_path: Path) -> None:
    """The longer control is then trained with them, too."""
    alone = Arm("alone", "demo-vit-alone")
    guided = Arm("guided", "demo-vit", controls=True, alone="alone")
    (unit,) = units(1)
    tasks = tasks_of([alone, guided], unit, tmp_path, "seconds")
    assert [task.label for task in tasks] == ["alone", "guided", "alone, same seconds"]
    assert tasks[-1].needs == ("guided", "alone")
    rates = [recipe_of(arm, unit).optimizer.lr for arm in (alone, guided)]
    assert rates == [1e-3, 3e-3]


def test_labels_say_what_is_equal(tmp_path: Path) -> None:
    def labels(tasks: list[Task]) -> list[str]:
        return [task.label for task in tasks if task.role == "control"]

    (unit,) = units(1)
    assert labels(tasks_of([GUIDED], unit, tmp_path, "multiply-adds")) == [
        "guided, unguided",
        "guided, unguided, same multiply-adds",
    ]
