"""Trains several recipes over several seeds or folds, with the controls that a claim needs.

Every unit (a seed, or a fold of a seed) is a folder with a run for each recipe; a teacher that
recipes share is trained once in it. Complete runs are not repeated; a stopped run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from vitrellis.assembly.launch import Finished, train
from vitrellis.assembly.run_folder import HoldsAnotherRun
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments.comparison_plan import (
    Arm,
    ComparisonPlan,
    Unit,
    recipe_of,
    tasks_of,
)
from vitrellis.experiments.equal_cost import EqualCost
from vitrellis.experiments.jobs import run_jobs
from vitrellis.experiments.machine_shares import machine_shares
from vitrellis.experiments.slots import Slot
from vitrellis.recipe import check_teachers_end
from vitrellis.training.interrupts import Interrupted


class SomeFailed(VitrellisError):
    """Some trainings failed, and the others are complete.

    Args:
        errors: The error of each training that failed, by its name.
        exit_codes: Their exit codes; if all are those of wrong words, so is this one's.
        complete: The rows of what is complete in every unit.
    """

    is_shared = True

    def __init__(
        self, errors: Mapping[str, str], exit_codes: Sequence[int], complete: list[Measured]
    ) -> None:
        names: dict[str, list[str]] = {}
        for name, error in errors.items():
            names.setdefault(error, []).append(name)
        count = "1 training" if len(errors) == 1 else f"{len(errors)} trainings"
        lines = [f"{'; '.join(of_it)}: {error}" for error, of_it in names.items()]
        are_wrong_words = set(exit_codes) == {UsageError.exit_code}
        again = "" if are_wrong_words else "; the same command tries again"
        super().__init__("\n".join([f"{count} failed{again}", *lines]))
        if are_wrong_words:
            self.exit_code = UsageError.exit_code
        self.complete = complete


@dataclass(frozen=True)
class Measured:
    """The figures of one arm in one unit.

    Attributes:
        arm: The label of the arm.
        role: "student", "teacher" or "control".
        unit: The name of the unit.
        epochs: The number of epochs.
        figures: The figures of the checkpoint that validation chose, as fractions by name: `top1`,
            `balanced_accuracy` and `macro_f1` on the test images; if there are none, `top1` on the
            validation images.
        split: The split of the figures, "test" or "validation".
        val_top1: The validation accuracy of that checkpoint; None if nothing was validated.
        seconds: The seconds in training steps; a guided student's include its teacher's forward
            passes, not the teacher's training.
        images_per_second: The speed over all training steps.
        run: The run directory.
        groups: The test accuracy of head, mid and tail classes if some have many more training
            images than others: `{"training images": {"head": 0.9, ...}}`, by the rule that tells
            groups apart; groups without a class are left out.
    """

    arm: str
    role: str
    unit: str
    epochs: int
    figures: dict[str, float]
    split: str
    val_top1: float | None
    seconds: float
    images_per_second: float
    run: str
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def compare(
    arms: Sequence[Arm],
    repeated: Sequence[Unit],
    *,
    out: Path,
    console: Console,
    jobs: int = 1,
    slots: Sequence[Slot] | None = None,
    equal: EqualCost | None = None,
) -> list[Measured]:
    """Trains every arm in every unit.

    Args:
        arms: At least one arm, with different labels.
        repeated: The seeds and folds.
        out: The folder for the runs.
        console: The console that shows progress.
        jobs: The number of trainings at the same time, each in a process of its own if there are
            several.
        slots: Where they run, each in a process of its own; by default on this machine.
        equal: What the longer controls have in common with student and teacher; by default seconds
            if each training has a device of this machine to itself, otherwise multiply-adds.

    Returns:
        A row for every arm, teacher and control of every unit.

    Raises:
        UsageError: If a recipe is wrong, two arms have one label, or seconds should be equal while
            trainings share a device.
        SomeFailed: If some trainings failed; the others are complete.
        Interrupted: After SIGTERM or Ctrl-C; the same call continues.
    """
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label}: given twice; each recipe is compared once")
    recipes = [recipe_of(arm, repeated[0]) for arm in arms]  # fails before anything is trained
    for recipe in recipes:
        check_teachers_end(recipe)
    shares = machine_shares(jobs, recipes) if slots is None else []
    is_fair = slots is None and (jobs == 1 or all(share.is_alone for share in shares))
    if equal == "seconds" and not is_fair:
        where = f"--jobs 1 instead of --jobs {jobs}" if slots is None else "this machine alone"
        raise UsageError(
            "--equal seconds: trainings side by side, or on different machines, are not equally "
            f"fast, so that their seconds are not comparable. Use {where}, or --equal multiply-adds"
        )
    plan = ComparisonPlan(
        [task for unit in repeated for task in tasks_of(arms, unit, out, equal or _fair(is_fair))]
    )
    if jobs == 1 and slots is None:
        _train_here(plan, console)
    else:
        run_jobs(plan, slots or shares, logs=out / "logs", console=console)
    rows = list(_rows(plan, arms, repeated))
    if plan.errors:
        raise SomeFailed(plan.errors, plan.exit_codes, complete=rows)
    return rows


def _fair(is_alone: bool) -> EqualCost:
    return "seconds" if is_alone else "multiply-adds"


def _train_here(plan: ComparisonPlan, console: Console) -> None:
    """Trains one after the other in this process."""
    while job := plan.next_job([]):
        console.rule(job.name, align="left")
        try:
            plan.finish(job, train(job.recipe, out=job.run.path, console=console))
        except Interrupted:
            raise
        except HoldsAnotherRun as error:
            plan.fail(job, str(error.without_fresh()), error.exit_code)
        except VitrellisError as error:
            plan.fail(job, str(error), error.exit_code)


def _rows(
    plan: ComparisonPlan, arms: Sequence[Arm], repeated: Sequence[Unit]
) -> Iterator[Measured]:
    """The rows of all arms and controls that are complete in every unit, and of their teachers."""
    incomplete = {task.label for task in plan.tasks if plan.finished_of(task) is None}
    for unit in repeated:
        finished = {
            task: each
            for task in plan.tasks
            if task.unit == unit and task.label not in incomplete
            if (each := plan.finished_of(task)) is not None
        }
        of_arms = [each for task, each in finished.items() if task.label in {a.label for a in arms}]
        teachers = {t.run.path: t for each in of_arms for t in each.teachers.values()}
        for teacher in teachers.values():
            yield _measure(teacher.results.recipe, "teacher", unit, teacher)
        for task, each in finished.items():
            yield _measure(task.label, task.role, unit, each)


def _measure(label: str, role: str, unit: Unit, finished: Finished) -> Measured:
    results = finished.results
    best = results.best
    if best.test is not None:
        names = ("top1", "balanced_accuracy", "macro_f1")
        figures: dict[str, float] = {name: getattr(best.test, name) for name in names}
    else:
        assert best.val_top1 is not None
        figures = {"top1": best.val_top1}
    return Measured(
        arm=label,
        role=role,
        unit=unit.name,
        epochs=results.epochs,
        figures=figures,
        split="validation" if best.test is None else "test",
        val_top1=best.val_top1,
        seconds=results.seconds,
        images_per_second=results.images_per_second or 0.0,
        run=str(finished.run.path),
        groups={
            grouping.by: {
                name: accuracy
                for name, accuracy in grouping.accuracies.items()
                if accuracy is not None
            }
            for grouping in (best.test.groups if best.test is not None else ())
        },
    )
