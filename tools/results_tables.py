"""The tables of README, docs/results.md and docs/unbalanced.md, and a figure; and all others."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tools.other_tables import OTHER_PARTS, draw_reproduction
from vitrellis.analysis.paired import PairedDifference, paired_difference
from vitrellis.experiments.comparison_table import mean_and_spread
from vitrellis.report.pictures import COLOURS
from vitrellis.runs.atomic import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
FIGURE = RESULTS / "guidance.png"
TITLES = {
    "few-cifar100": "CIFAR-100",
    "few-cifar100-dhvt": "CIFAR-100",
    "few-cifar10-lt": "CIFAR-10, long tail",
    "few-clothing": "clothing",
    "few-clothing-dhvt": "clothing",
    "few-magnetic-tiles": "magnetic tiles",
    "few-sign-digits": "sign digits",
}
"""The images in the order of the tables, by the name of their file."""
FIGURE_OF = {"few-magnetic-tiles": "balanced_accuracy"}
"""The figure of the table in the README where it is not the accuracy."""


WITHOUT_CONTROL = {"few-magnetic-tiles"}
"""Files that the README leaves out, because the student alone learned nothing, so that the gain is
not one over a fair control."""


_LONGER = ", same multiply-adds"
"""What the name of the control at equal compute adds to that of the student alone."""


@dataclass(frozen=True)
class Runs:
    """The runs of one arm, a row for each seed.

    Attributes:
        rows: The rows of the file, in the order of their seeds.
    """

    rows: tuple[dict[str, Any], ...]

    def percent(self, metric: str) -> list[float]:
        """The figure of each seed on the test images, in percent."""
        return [100 * row["figures"][metric] for row in self.rows]

    def text(self, metric: str) -> str:
        """Mean and spread, such as "31.0 ± 0.4"."""
        return mean_and_spread(self.percent(metric))

    def mean(self, key: str) -> float:
        """The mean of a number of the rows."""
        return statistics.fmean(row[key] for row in self.rows)


@dataclass(frozen=True)
class Study:
    """A guided student on one set of images, beside its controls and its teacher.

    Attributes:
        file: The name of the file, without its ending.
        title: The images, and how many of them are for training.
        student: The name of the student.
        alone: The student alone, for as many epochs.
        longer: The student alone, for as many multiply-adds as the guided one and its teacher.
        guided: The guided student.
        teacher: Its teacher.
        others: Other arms, by their names.
    """

    file: str
    title: str
    student: str
    alone: Runs
    longer: Runs
    guided: Runs
    teacher: Runs
    others: Mapping[str, Runs]

    @property
    def arms(self) -> dict[str, Runs]:
        """The arms by their names in tables."""
        return {
            **self.others,
            "alone, equal epochs": self.alone,
            "alone, equal compute": self.longer,
            "guided": self.guided,
            "its teacher": self.teacher,
        }

    @property
    def hardware(self) -> str:
        """The machines."""
        return "; ".join(dict.fromkeys(row["hardware"] for row in self.guided.rows))

    @property
    def metric(self) -> str:
        """The figure that counts: accuracy, or class-balanced accuracy for unbalanced classes."""
        return FIGURE_OF.get(self.file, "top1")

    def gain(self, other: Runs) -> PairedDifference:
        """What the guided student gains over another arm, in points.

        Folds share images, for which the interval is corrected.
        """
        row = self.guided.rows[0]
        return paired_difference(
            self.guided.percent(self.metric),
            other.percent(self.metric),
            test_share=row["test_images"] / row["train_images"] if "fold" in row["unit"] else None,
        )


def read_studies(folder: Path = RESULTS) -> list[Study]:
    """The studies of all files of comparisons."""
    files = {folder / f"{name}.json": title for name, title in TITLES.items()}
    return [_study(file, title) for file, title in files.items() if file.exists()]


def _study(file: Path, title: str) -> Study:
    content = json.loads(file.read_text())
    rows, student = content["rows"], content["student"]

    def runs(belongs: Callable[[dict[str, Any]], bool]) -> Runs:
        return Runs(tuple(sorted(filter(belongs, rows), key=lambda row: str(row["unit"]))))

    (longer,) = {row["arm"] for row in rows if row["arm"].endswith(_LONGER)}
    alone = longer.removesuffix(_LONGER)
    return Study(
        file.stem,
        f"{title}, {rows[0]['train_images']:,}",
        student,
        alone=runs(lambda row: row["arm"] == alone),
        longer=runs(lambda row: row["arm"] == longer),
        guided=runs(lambda row: row["arm"] == student),
        teacher=runs(lambda row: row["role"] == "teacher"),
        others={
            name: runs(lambda row, name=name: row["arm"] == name)  # type: ignore[misc]
            for name in content.get("others", ())
            if name != alone
        },
    )


def summary_table(studies: Sequence[Study]) -> list[str]:
    """The table of the README: a row for each study."""
    lines = [
        "| training images | student | alone | alone, equal compute | **guided** | its teacher "
        "| gain at equal compute |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for study in (each for each in studies if each.file not in WITHOUT_CONTROL):
        balanced = "" if study.metric == "top1" else " (class-balanced accuracy)"
        alone, longer, guided, teacher = (
            each.text(study.metric)
            for each in (study.alone, study.longer, study.guided, study.teacher)
        )
        cells = [study.title + balanced, study.student, alone, longer, f"**{guided}**", teacher]
        cells.append(_points(study, study.longer))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _points(study: Study, other: Runs) -> str:
    gain = study.gain(other)
    each = "" if len(gain.each) == 1 else f" ({', '.join(f'{one:+.1f}' for one in gain.each)})"
    return f"{gain.mean:+.1f}{each}"


def detail_tables(studies: Sequence[Study]) -> list[str]:
    """The part of docs/results.md: what holds for all, and for each study a row for each arm."""
    lines = []
    for student in dict.fromkeys(study.student for study in studies):
        own = [study for study in studies if study.student == student]
        fair = [study for study in own if study.file not in WITHOUT_CONTROL]
        gained = [each for study in fair for each in study.gain(study.longer).each]
        ahead = [each for study in own for each in study.gain(study.teacher).each]
        lines.append(
            f"- {student}: at equal compute, the guided student gains {_points_of(gained, '.1f')}"
            f"{', those on magnetic tiles left out' if fair != own else ''}. Its distance to "
            f"its teacher is {_points_of(ahead, '+.1f')}."
        )
    lines.append("")
    for study in studies:
        seeds = len(study.guided.rows)
        lines += [
            f"### {study.title}: {study.student}",
            "",
            f"{seeds} seed{'s' if seeds > 1 else ''}; {study.hardware}.",
            "",
            "| | test accuracy | class-balanced | guided gains | 95 % interval | epochs | "
            "multiply-adds | seconds |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name, runs in study.arms.items():
            gains, interval = "", ""
            if runs is not study.guided:
                gain = study.gain(runs)
                gains = _points(study, runs)
                if gain.interval is not None:
                    interval = "{:+.1f} to {:+.1f}".format(*gain.interval)
            cells = [name, runs.text("top1"), runs.text("balanced_accuracy"), gains, interval]
            cells += [f"{runs.mean('epochs'):.0f}", f"{runs.mean('multiply_adds') / 1e12:.1f} T"]
            cells += [f"{runs.mean('seconds'):.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def _points_of(values: Sequence[float], form: str) -> str:
    """Such as "2.7 to 4.0 points in 3 runs"."""
    if len(values) == 1:
        return f"{values[0]:{form}} points in one run"
    return f"{min(values):{form}} to {max(values):{form}} points in {len(values)} runs"


def tail_table(studies: Sequence[Study]) -> list[str]:
    """The table of docs/unbalanced.md: a row for each arm, with head, middle and tail."""
    (study,) = (study for study in studies if study.file == "few-cifar10-lt")
    lines = [
        "| | all classes | head | mid | tail | multiply-adds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, runs in study.arms.items():
        cells = [name, runs.text("balanced_accuracy")]
        cells += [
            mean_and_spread([100 * row["groups"]["training images"][group] for row in runs.rows])
            for group in ("head", "mid", "tail")
        ]
        lines.append(f"| {' | '.join(cells)} | {runs.mean('multiply_adds') / 1e12:.1f} T |")
    return lines


def draw(studies: Sequence[Study], path: Path = FIGURE) -> None:
    """Draws validation accuracy against multiply-adds, a panel for each study.

    The guided student begins where its teacher ends. Lines are means over the seeds; the points at
    their ends are test accuracies, one for each seed.
    """
    columns = min(2, len(studies))
    rows = -(-len(studies) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    for study, axes in zip(
        studies, figure.subplots(rows, columns, squeeze=False).flat, strict=False
    ):
        spent = study.teacher.mean("multiply_adds") / 1e12
        arms = {"alone": study.longer, "guided": study.guided, "its teacher": study.teacher}
        for (name, runs), colour in zip(arms.items(), COLOURS[:3], strict=True):
            start = spent if runs is study.guided else 0.0
            total = runs.mean("multiply_adds") / 1e12
            epochs, accuracies = _mean_curve(runs)
            x = [start + total * epoch / epochs[-1] for epoch in epochs]
            style = "--" if runs is study.teacher else "-"
            axes.plot(x, accuracies, style, color=colour, label=name, linewidth=1.8)
            tests = runs.percent("top1")
            axes.plot([start + total] * len(tests), tests, "o", color=colour, markersize=4)
        axes.set_title(f"{study.title}: {study.student}", fontsize=10)
        axes.set_xlabel("multiply-adds of training, 10¹²; the guided student's after its teacher's")
        axes.xaxis.label.set_fontsize(8)
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
    figure.suptitle("Lines: validation accuracy. Points: test accuracy of each seed", fontsize=9)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    for axes in figure.axes[len(studies) :]:
        axes.set_visible(False)
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=110))


def _mean_curve(runs: Runs) -> tuple[list[int], list[float]]:
    curves = [dict(row["curve"]) for row in runs.rows]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return epochs, [100 * statistics.fmean(curve[epoch] for curve in curves) for epoch in epochs]


PARTS = {
    "README.md": summary_table,
    "docs/results.md": detail_tables,
    "docs/unbalanced.md": tail_table,
}
"""What writes the part of each page between the two comments."""
BEGIN, END = "<!-- from docs/results/: python -m tools.prove --tables -->", "<!-- end -->"


def with_tables(page: str, lines: Sequence[str]) -> str:
    """The page with the lines between its two comments."""
    before, rest = page.split(BEGIN, 1)
    return "\n".join([before + BEGIN, *lines, END]) + rest.split(END, 1)[1]


def write_all(root: Path = ROOT) -> None:
    """Writes tables and figure."""
    studies = read_studies()
    for name, write in PARTS.items():
        page = root / name
        page.write_text(with_tables(page.read_text(), write(studies)))
    for name, write_other in OTHER_PARTS.items():
        page = root / name
        page.write_text(with_tables(page.read_text(), write_other(RESULTS)))
    draw(studies)
    draw_reproduction(RESULTS)
