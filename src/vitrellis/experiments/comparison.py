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
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, identity, load_recipe, with_epochs, without_guidance


@dataclass(frozen=True)
class Arm:
    """A recipe of a comparison.

    Attributes:
        label: Its name in tables.
        recipe: A packaged recipe's name, or a path.
        overrides: `key=value` changes to the recipe.
        controls: Whether it is also trained without guidance: for as many epochs, unless another
            arm is that already, and for as many seconds as it and its teacher took.
    """

    label: str
    recipe: str
    overrides: tuple[str, ...] = ()
    controls: bool = False


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


@dataclass
class _UnitRuns:
    """The finished runs of one unit, by label."""

    folder: Path
    unit: Unit
    console: Console
    finished: dict[str, Finished] = field(default_factory=dict)

    def run(self, label: str, recipe: Recipe, name: str) -> Finished:
        self.console.rule(f"{label}, {self.unit.name}", align="left")
        try:
            self.finished[label] = train(recipe, out=self.folder / name, console=self.console)
        except HoldsAnotherRun as error:
            raise error.without_fresh() from None
        return self.finished[label]


def units(seeds: int, folds: int | None = None) -> list[Unit]:
    """Seeds 0 to `seeds - 1`, each with all of its folds."""
    if folds is None:
        return [Unit(seed) for seed in range(seeds)]
    return [Unit(seed, fold, folds) for seed in range(seeds) for fold in range(folds)]


def compare(
    arms: Sequence[Arm], repeated: Sequence[Unit], *, out: Path, console: Console
) -> list[Measured]:
    """Trains every arm in every unit.

    Args:
        arms: At least one arm, with different labels.
        repeated: The seeds and folds.
        out: The folder for the runs.
        console: The console that shows progress.

    Returns:
        A row for every arm, teacher and control of every unit.

    Raises:
        UsageError: If a recipe is wrong, or two arms have one label.
        VitrellisError: For the same reasons as `train`.
    """
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label}: given twice; each recipe is compared once")
    for arm in arms:  # fails early, before anything is trained
        _recipe(arm, repeated[0])
    return [row for unit in repeated for row in _one_unit(arms, unit, out, console)]


def _one_unit(arms: Sequence[Arm], unit: Unit, out: Path, console: Console) -> Iterator[Measured]:
    unit_runs = _UnitRuns(out / unit.name, unit, console)
    recipes = {arm.label: _recipe(arm, unit) for arm in arms}
    for arm in arms:
        unit_runs.run(arm.label, recipes[arm.label], _folder_name(arm.label))
    controls = [arm for arm in arms if arm.controls]
    control_labels: list[str] = []
    for arm in controls:
        control_labels += _run_controls(arm, recipes, unit_runs, is_only=len(controls) == 1)
    yield from _teachers(unit_runs, arms, unit)
    for label, finished in unit_runs.finished.items():
        role = "control" if label in control_labels else "student"
        yield _measure(label, role, unit, finished)


def _recipe(arm: Arm, unit: Unit) -> Recipe:
    recipe = load_recipe(arm.recipe, [*arm.overrides, *unit.overrides])
    if arm.controls and not recipe.all_teachers:
        raise UsageError(f"{arm.label}: has no teacher, so it needs no control without one")
    return recipe


def _run_controls(
    arm: Arm, recipes: dict[str, Recipe], unit_runs: _UnitRuns, *, is_only: bool
) -> list[str]:
    """Trains the same student without guidance, for equal epochs and for equal seconds.

    Returns:
        The labels of the runs that were trained here.
    """
    alone = without_guidance(recipes[arm.label])
    same = [label for label, recipe in recipes.items() if identity(recipe) == identity(alone)]
    labels = []
    if same:
        alone_label = same[0]
    else:
        alone_label = f"{arm.label}, unguided"
        unit_runs.run(alone_label, alone, _folder_name(alone_label))
        recipes[alone_label] = alone  # the next arm may have the same
        labels.append(alone_label)
    guided, by_itself = unit_runs.finished[arm.label], unit_runs.finished[alone_label]
    spent = [guided, *guided.teachers.values()]
    seconds = sum(finished.results.seconds for finished in spent)
    epochs = round(alone.training.epochs * seconds / by_itself.results.seconds)
    longer = with_epochs(alone, max(alone.training.epochs, epochs))
    label = f"{alone_label}, " + ("same seconds" if is_only else f"seconds of {arm.label}")
    unit_runs.run(label, longer, _folder_name(label))
    return [*labels, label]


def _teachers(unit_runs: _UnitRuns, arms: Sequence[Arm], unit: Unit) -> Iterator[Measured]:
    """A row for every teacher that was trained for this unit, once."""
    by_run = {}
    for arm in arms:
        for teacher in unit_runs.finished[arm.label].teachers.values():
            by_run[teacher.run.path] = teacher
    for teacher in by_run.values():
        yield _measure(teacher.results.recipe, "teacher", unit, teacher)


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


def _folder_name(label: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in label)
    return "-".join(kept.lower().split())
