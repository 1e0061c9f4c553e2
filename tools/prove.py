"""Does guidance help? Trains the comparisons of docs/results.md and writes its tables and figure.

Each comparison is a file `docs/results/NAME.json`: the figures of each run, with its seed. A seed
that is in the file is not trained again, so that seeds can be added later, on any machine. A seed
is written when all of its runs are complete; the same command continues what was stopped. Each run
has one thread, so that several comparisons may run at the same time.

    python -m tools.prove few-clothing --images images --runs runs --seeds 0 1 2
    python -m tools.prove --tables

The sets are laid out under the folder of `--images` as docs/results.md says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.results_tables import RESULTS, write_all
from vitrellis.assembly.launch import Finished
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments.comparison import Measured, compare
from vitrellis.experiments.comparison_plan import Arm, Unit
from vitrellis.experiments.equal_cost import own_macs
from vitrellis.recipe import load_recipe
from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.atomic import write_json
from vitrellis.runs.directory import RunDirectory


@dataclass(frozen=True)
class Comparison:
    """A guided student on a set of images, with its controls.

    Attributes:
        images: The folder of the images, within that of all sets.
        student: The name of the student.
        recipe: The recipe of the guided student.
        overrides: The changes to it.
        teacher: The changes to the teacher's recipe.
        folds: The number of folds, of which seed S tests fold S; None if the set has test images.
        others: The recipes of other arms, by their names. One of them is the student alone if it is
            the same recipe without the teacher.
    """

    images: str
    student: str
    recipe: str
    overrides: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    folds: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    def arms(self, images: Path) -> list[Arm]:
        """The guided student, whose controls follow from it, and the others."""
        shared = (f"data.root={images / self.images}", *self.overrides, "machine.threads=1")
        of_teacher = tuple(f"teacher.overrides.{change}" for change in self.teacher)
        guided = Arm(self.student, self.recipe, shared + of_teacher, controls=True)
        return [guided, *(Arm(name, recipe, shared) for name, recipe in self.others.items())]

    def unit(self, seed: int) -> Unit:
        """The unit of a seed."""
        if self.folds is None:
            return Unit(seed)
        return Unit(seed, seed % self.folds, self.folds)


COMPARISONS = {
    "few-cifar100": Comparison(".", "plain ViT", "few-cifar100-vit"),
    "few-cifar100-dhvt": Comparison(".", "DHVT", "few-cifar100-dhvt"),
    "few-clothing": Comparison("clothing", "plain ViT", "few-photos-vit"),
    "few-clothing-dhvt": Comparison("clothing", "DHVT", "few-photos-dhvt"),
    "few-sign-digits": Comparison(
        "sign-digits",
        "plain ViT",
        "few-photos-vit",
        ("data.train_size=500", "training.epochs=240"),
        teacher=("training.epochs=120",),
        folds=5,
    ),
    "few-cifar10-lt": Comparison(
        ".",
        "plain ViT",
        "few-cifar10-lt-vit",
        others={
            "balanced softmax": "few-cifar10-lt-vit-balanced",
            "cross-entropy": "few-cifar10-lt-vit-alone",
            "re-weighted (DRW)": "few-cifar10-lt-vit-drw",
            "DeiT-LT": "few-cifar10-lt-vit-deit-lt",
        },
    ),
    "few-magnetic-tiles": Comparison(
        "magnetic-tiles",
        "plain ViT",
        "few-photos-vit",
        ("balance=true", "training.epochs=80"),
        teacher=("training.epochs=80",),
        folds=5,
    ),
}
"""By the name of their file."""


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", nargs="?", choices=COMPARISONS, help="what to train")
    parser.add_argument(
        "--images", type=Path, default=Path("images"), help="the folder of all sets"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/prove"), help="for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", action="store_true", help="write tables and figure anew")
    options = parser.parse_args(words)
    console = Console()
    try:
        if options.comparison is not None:
            prove(options.comparison, options.images, options.runs, options.seeds)
        elif not options.tables:
            parser.error("name a comparison, or ask for --tables")
    except VitrellisError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        return error.exit_code
    if options.tables:
        write_all()
    return 0


def prove(name: str, images: Path, runs: Path, seeds: Sequence[int]) -> None:
    """Trains the seeds of a comparison that its file lacks, and adds them to it.

    Raises:
        UsageError: If the file holds figures of other settings.
    """
    comparison = COMPARISONS[name]
    file = RESULTS / f"{name}.json"
    settings = settings_of(comparison)
    rows: list[dict[str, Any]] = []
    if file.exists():
        kept = json.loads(file.read_text())
        if kept["settings"] != settings:
            raise UsageError(f"{file}: holds figures of other settings; delete it to begin anew")
        rows = kept["rows"]
    for seed in seeds:
        unit = comparison.unit(seed)
        if any(row["unit"] == unit.name for row in rows):
            continue
        measured = compare(
            comparison.arms(images.resolve()),
            [unit],
            out=runs / name,
            console=Console(),
            equal="multiply-adds",
        )
        rows += [_row(each) for each in measured]
        rows.sort(key=lambda row: row["unit"])
        content = {
            "command": f"python -m tools.prove {name} --seeds ...",
            "student": comparison.student,
            "others": list(comparison.others),
            "settings": settings,
            "rows": rows,
        }
        write_json(file, content)


def settings_of(comparison: Comparison) -> dict[str, Any]:
    """The keys of the recipes, teachers included, that are not the defaults, and the changes."""
    settings: dict[str, Any] = {
        key: list(getattr(comparison, key)) for key in ("overrides", "teacher")
    }
    students = [comparison.recipe, *comparison.others.values()]
    teachers = [each for name in students for each in load_recipe(name, []).all_teachers.values()]
    for name in dict.fromkeys([*students, *(each.recipe for each in teachers if each.recipe)]):
        settings[name] = load_recipe(name, []).model_dump(
            mode="json", exclude_defaults=True, exclude={"name", "description", "machine"}
        )
    return settings


def _row(measured: Measured) -> dict[str, Any]:
    """The row, with its cost, the training images, and the validation accuracies."""
    row = asdict(measured)
    run = RunDirectory(Path(row.pop("run")))
    results = run.read_results()
    assert results.best.test is not None  # every set has test images, or folds
    row["multiply_adds"] = own_macs(Finished(run, results))
    row["train_images"] = sum(run.read_data().class_counts or ())
    row["test_images"] = results.best.test.everything["images"]
    row["hardware"] = describe_hardware()
    row["curve"] = [
        [each.epoch + 1, round(each.val_top1, 4)]
        for each in run.read_metrics()
        if each.val_top1 is not None
    ]
    return row


if __name__ == "__main__":
    sys.exit(main())
