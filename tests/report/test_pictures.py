"""Pictures are drawn, and are pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vitrellis.analysis.metrics import Evaluation
from vitrellis.report.confusion import draw_confusion
from vitrellis.report.curves import learning_curves
from vitrellis.report.results import results_lines


def test_curves_of_runs_with_and_without_validation(tmp_path: Path) -> None:
    rows = [{"epoch": e, "seconds": e + 1.0, "val_top1": 0.5 + e / 20} for e in range(5)]
    unvalidated = [{"epoch": 0, "seconds": 1.0}]
    path = tmp_path / "pictures" / "curves.png"
    learning_curves({"teacher": rows, "none": unvalidated}, path, title="two runs")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


@pytest.mark.parametrize("num_classes", [3, 40])
def test_confusion(tmp_path: Path, num_classes: int) -> None:
    labels = torch.arange(200) % num_classes
    logits = torch.randn(200, num_classes)
    names = [f"class {k}" for k in range(num_classes)]
    path = tmp_path / "confusion.png"
    draw_confusion(Evaluation.from_logits(logits, labels, names), path, title="x")
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_results_without_test_images_say_so() -> None:
    results = {
        "epochs": 3,
        "seconds": 2.0,
        "images_per_second": 100.0,
        "best": {"epoch": 1, "val_top1": 0.5},
        "last": {"epoch": 2},
    }
    text = "\n".join(results_lines(results))
    assert "epoch 2 of 3  val 50.00 %" in text
    assert "no test figures" in text
