"""What a comparison trains, in which order, and what each training waits for."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vitrellis.assembly.launch import Finished
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments.equal_cost import EqualCost, equal_epochs
from vitrellis.experiments.jobs import Job, Outcome
from vitrellis.recipe import (
    Recipe,
    digest,
    identity,
    load_recipe,
    teacher_recipe,
    with_epochs,
    without_guidance,
)
from vitrellis.report.results_table import results_lines
from vitrellis.runs.directory import RunDirectory


@dataclass(frozen=True)
class Arm:
    """A recipe of a comparison.

    Attributes:
        label: Its name in tables.
        recipe: A packaged recipe's name, or a path.
        overrides: `key=value` changes to the recipe.
        controls: Whether it is also trained without guidance: for as many epochs, unless another
            arm is that already, and for as many seconds as it and its teacher took.
        alone: The label of another arm, which is then the student without guidance: with the
            settings that are better for it alone, in place of the same recipe without its teacher.
    """

    label: str
    recipe: str
    overrides: tuple[str, ...] = ()
    controls: bool = False
    alone: str | None = None


@dataclass(frozen=True)
class Unit:
    """A seed, or a fold of a seed: every arm has one run in it.

    Attributes:
        seed: The seed of images, initial weights, order and augmentation.
        fold: The index of the fold that is tested on; None without cross-validation.
        folds: The number of folds; None without cross-validation.
    """

    seed: int
    fold: int | None = None
    folds: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def overrides(self) -> list[str]:
        """The changes to every recipe."""
        changes = [f"seed={self.seed}"]
        if self.fold is not None:
            changes += [f"data.folds={self.folds}", f"data.fold={self.fold}"]
        return changes


def units(seeds: int, folds: int | None = None) -> list[Unit]:
    """Seeds 0 to `seeds - 1`, each with all of its folds."""
    if folds is None:
        return [Unit(seed) for seed in range(seeds)]
    return [Unit(seed, fold, folds) for seed in range(seeds) for fold in range(folds)]


@dataclass(frozen=True, eq=False)
class Task:
    """A training of a comparison.

    Attributes:
        label: The label of its arm.
        role: "student" or "control".
        unit: The unit.
        run: The run directory.
        needs: The labels of the runs of this unit that it is measured by.
        recipe: Its recipe, from the finished runs that it needs, by label.
    """

    label: str
    role: Literal["student", "control"]
    unit: Unit
    run: RunDirectory
    recipe: Callable[[Mapping[str, Finished]], Recipe]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in tables and messages."""
        return f"{self.label}, {self.unit.name}"


def recipe_of(arm: Arm, unit: Unit) -> Recipe:
    """The recipe of an arm in a unit.

    Raises:
        UsageError: If it is wrong, or has no teacher while the arm asks for controls.
    """
    recipe = load_recipe(arm.recipe, [*arm.overrides, *unit.overrides])
    if arm.controls and not recipe.all_teachers:
        raise UsageError(f"{arm.label}: has no teacher, so it needs no control without one")
    return recipe


def tasks_of(arms: Sequence[Arm], unit: Unit, out: Path, equal: EqualCost) -> list[Task]:
    """The trainings of a unit: the arms, then their controls.

    A control is the same student without guidance, for as many epochs, unless an arm or another
    control is that already, and for as many seconds or multiply-adds. Where an arm names another
    one as its student alone, the longer control is that one for longer.

    Args:
        arms: The arms.
        unit: The unit.
        out: The folder of the comparison.
        equal: What the longer control has in common with student and teacher.
    """

    def task(
        label: str,
        role: Literal["student", "control"],
        recipe: Callable[[Mapping[str, Finished]], Recipe],
        needs: tuple[str, ...] = (),
    ) -> Task:
        run = RunDirectory(out / unit.name / _folder_name(label))
        return Task(label, role, unit, run, recipe, needs)

    recipes = {arm.label: recipe_of(arm, unit) for arm in arms}
    tasks = [task(arm.label, "student", partial(_fixed, recipes[arm.label])) for arm in arms]
    with_controls = [arm for arm in arms if arm.controls]
    for arm in with_controls:
        if arm.alone is not None:
            alone = recipes[arm.alone]
        else:
            alone = without_guidance(recipes[arm.label])
        same = [label for label, recipe in recipes.items() if identity(recipe) == identity(alone)]
        alone_label = same[0] if same else f"{arm.label}, unguided"
        if not same:
            recipes[alone_label] = alone  # the next arm may have the same
            tasks.append(task(alone_label, "control", partial(_fixed, alone)))
        is_only = len(with_controls) == 1
        label = f"{alone_label}, " + (f"same {equal}" if is_only else f"{equal} of {arm.label}")
        longer = partial(_longer, alone, arm.label, alone_label, equal)
        tasks.append(task(label, "control", longer, (arm.label, alone_label)))
    return tasks


def _fixed(recipe: Recipe, finished: Mapping[str, Finished]) -> Recipe:
    del finished
    return recipe


def _longer(
    alone: Recipe, guided: str, by_itself: str, equal: EqualCost, finished: Mapping[str, Finished]
) -> Recipe:
    return with_epochs(alone, equal_epochs(alone, finished[guided], finished[by_itself], equal))


class ComparisonPlan:
    """Hands out the trainings of a comparison; those that need others come after them.

    Two trainings that need a teacher which is not trained yet do not run at the same time: one
    trains it, and the other has it afterwards.

    Args:
        tasks: The trainings, in the order in which they are started where nothing stands against
            it.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)
        self.errors: dict[str, str] = {}
        self.exit_codes: list[int] = []
        self._waiting = list(tasks)
        self._begun: dict[str, Task] = {}
        self._finished: dict[str, Finished] = {}

    def finished_of(self, task: Task) -> Finished | None:
        """The finished run of a training; None if it is not complete."""
        return self._finished.get(task.name)

    def num_waiting(self) -> int:
        """The number of trainings that are still to be started."""
        return len(self._waiting)

    def gives_up(self, job: Job) -> bool:
        """Never: every training of a comparison counts."""
        del job
        return False

    def figures_of(self, job: Job) -> str:
        """The figures of a training that is done, in a line."""
        return results_lines(job.run.read_results())[0]

    def next_job(self, running: Sequence[Job]) -> Job | None:
        """The first training that waits for nothing; None if there is none."""
        in_progress = {teacher for job in running for teacher in untrained_teachers(job)}
        for task in list(self._waiting):
            needed = {label: self._of_unit(task, label) for label in task.needs}
            if any(name in self.errors for name in needed.values()):
                self._waiting.remove(task)
                failed = [label for label, name in needed.items() if name in self.errors]
                self.errors[task.name] = f"needs {' and '.join(failed)}, which failed"
                continue
            if not all(name in self._finished for name in needed.values()):
                continue
            finished = {label: self._finished[name] for label, name in needed.items()}
            job = Job(task.name, task.recipe(finished), task.run)
            if in_progress.isdisjoint(untrained_teachers(job)):
                self._waiting.remove(task)
                self._begun[task.name] = task
                return job
        return None

    def end(self, outcome: Outcome) -> None:
        """Takes note of a training that ended in a process of its own."""
        job = outcome.job
        if outcome.state != "done":
            self.fail(job, outcome.text, outcome.exit_code)
            return
        try:
            self.finish(job, _read(job.run, job.recipe))
        except VitrellisError as error:  # a file that was damaged or deleted meanwhile
            self.fail(job, str(error), error.exit_code)

    def finish(self, job: Job, finished: Finished) -> None:
        """Takes note of a training that is complete."""
        self._finished[job.name] = finished

    def fail(self, job: Job, error: str, exit_code: int) -> None:
        """Takes note of a training that failed."""
        self.errors[job.name] = error
        self.exit_codes.append(exit_code)

    def _of_unit(self, task: Task, label: str) -> str:
        """The name of another training of the same unit."""
        return next(t.name for t in self.tasks if t.unit == task.unit and t.label == label)


def untrained_teachers(job: Job) -> Iterator[tuple[Path, str]]:
    """The teachers that a training may have to train first, of which it has no copy yet."""
    for name, settings in job.recipe.all_teachers.items():
        kept = job.run.teacher_model(name) / "config.json"
        if settings.recipe is not None and not kept.exists():
            yield job.run.path.parent, digest(identity(teacher_recipe(job.recipe, name)))


def _read(run: RunDirectory, recipe: Recipe) -> Finished:
    """A run that was trained by another process, with the teachers that were trained for it."""
    teachers = {}
    for name, settings in recipe.all_teachers.items():
        if settings.recipe is not None:
            teacher = teacher_recipe(recipe, name)
            trained = _teacher_of(run, name, teacher)
            if trained is not None:  # a complete run does not need its teacher any more
                teachers[name] = _read(trained, teacher)
    return Finished(run, run.read_results(), teachers)


def _teacher_of(run: RunDirectory, name: str, teacher: Recipe) -> RunDirectory | None:
    """The run of a teacher, known by its weights, of which the student's run has a copy.

    It is None if the teacher's run was deleted.

    The name of its folder depends on the images, which need not be read for this.
    """
    weights = "model.safetensors"
    mine = run.teacher_model(name) / weights
    folder = run.path.parent / "teachers"
    for path in sorted(folder.glob(f"{teacher.name}-*")):
        theirs = RunDirectory(path)
        of_theirs = theirs.best_model / weights
        if of_theirs.exists() and filecmp.cmp(mine, of_theirs, shallow=False):
            return theirs
    return None


def _folder_name(label: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in label)
    return "-".join(kept.lower().split())
