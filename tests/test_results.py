"""The tables of README and docs/results.md hold what the files of docs/results/ hold."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tools import prove
from tools.other_tables import OTHER_PARTS
from tools.results_tables import BEGIN, END, PARTS, RESULTS, ROOT, read_studies

FILES = [file for name in prove.COMPARISONS if (file := RESULTS / f"{name}.json").exists()]


@pytest.mark.parametrize("name", [*PARTS, *OTHER_PARTS])
def test_the_page_holds_the_table_of_the_files(name: str) -> None:
    between = (ROOT / name).read_text().split(BEGIN)[1].split(END)[0]
    lines = PARTS[name](read_studies()) if name in PARTS else OTHER_PARTS[name](RESULTS)
    assert between.strip().splitlines() == lines


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_settings_are_those_of_the_packaged_recipes(file: Path) -> None:
    settings = json.loads(file.read_text())["settings"]
    assert settings == prove.settings_of(prove.COMPARISONS[file.stem])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_seed_has_every_arm_and_equal_compute(file: Path) -> None:
    (study,) = (study for study in read_studies() if study.file == file.stem)
    units = [row["unit"] for row in study.guided.rows]
    for runs in study.arms.values():
        assert [row["unit"] for row in runs.rows] == units
    spent = study.guided.mean("multiply_adds") + study.teacher.mean("multiply_adds")
    epoch = study.longer.mean("multiply_adds") / study.longer.mean("epochs")
    assert abs(study.longer.mean("multiply_adds") - spent) <= epoch / 2 * 1.001


def test_means_and_gains_are_those_of_the_rows(tmp_path: Path) -> None:
    def row(arm: str, unit: str, top1: float, role: str = "student") -> dict[str, object]:
        figures = {"top1": top1, "balanced_accuracy": top1, "macro_f1": top1}
        return {
            "arm": arm, "role": role, "unit": unit, "figures": figures, "epochs": 2,
            "train_images": 1234, "test_images": 9, "multiply_adds": 1e12, "seconds": 3.0,
            "curve": [[2, top1]],
        }  # fmt: skip

    rows = [
        row("ViT", "seed0", 0.30),
        row("ViT", "seed1", 0.34),
        row("ViT, unguided", "seed0", 0.20, "control"),
        row("ViT, unguided", "seed1", 0.21, "control"),
        row("ViT, unguided, same multiply-adds", "seed0", 0.25, "control"),
        row("ViT, unguided, same multiply-adds", "seed1", 0.27, "control"),
        row("few-clothing-teacher", "seed0", 0.29, "teacher"),
        row("few-clothing-teacher", "seed1", 0.35, "teacher"),
    ]
    content = {"student": "ViT", "rows": rows}
    (tmp_path / "few-clothing.json").write_text(json.dumps(content))
    (study,) = read_studies(tmp_path)
    assert PARTS["README.md"]([study])[-1] == (
        "| clothing, 1,234 | ViT | 20.5 ± 0.7 | 26.0 ± 1.4 | **32.0 ± 2.8** | 32.0 ± 4.2 "
        "| +6.0 (+5.0, +7.0) |"
    )
    assert study.gain(study.longer).mean == pytest.approx(statistics.fmean([5.0, 7.0]))
