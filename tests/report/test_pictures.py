"""Pictures are drawn, show what they are given, and are written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.metrics import Evaluation
from vitrellis.errors import VitrellisError
from vitrellis.report.pictures import COLOURS, draw_confusion, draw_counts, learning_curves
from vitrellis.runs.results import EpochRow


def row(epoch: int, val_top1: float | None = None) -> EpochRow:
    return EpochRow(epoch, 1, epoch + 1.0, 0.1, 10.0, 1.0, {}, {}, 0.5, val_top1)


ROWS = [row(e, 0.5 + e / 20) for e in range(5)]
UNVALIDATED = [row(e) for e in range(2)]


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    """`(H, W, 3)` of what must be a PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def has_colour(picture: npt.NDArray[np.uint8], colour: str) -> bool:
    rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((picture == np.array(rgb, dtype=np.uint8)).all(axis=-1).sum() > 50)


def test_a_curve_for_each_validated_run(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "curves.png"
    runs = {"teacher": ROWS, "unvalidated": UNVALIDATED, "$x_{$": [*UNVALIDATED, *ROWS[2:]]}
    learning_curves(runs, path, title="runs of $5 and $")
    picture = pixels(path)
    assert picture.shape[1] > 1000
    assert [has_colour(picture, colour) for colour in COLOURS[:4]] == [True, False, True, False]


def test_no_run_was_validated(tmp_path: Path) -> None:
    learning_curves({"a": UNVALIDATED, "b": []}, tmp_path / "c.png", title="none")
    assert not any(has_colour(pixels(tmp_path / "c.png"), colour) for colour in COLOURS[:6])


def evaluation(num_classes: int) -> Evaluation:
    labels = torch.arange(20 * num_classes) % num_classes
    logits = torch.nn.functional.one_hot(labels, num_classes) * 9.0
    logits[:num_classes] = logits[:num_classes].roll(1, dims=1)  # some are wrong
    names = ["a class with a name of more letters than fit", "$_{", *map(str, range(num_classes))]
    return Evaluation.from_logits(logits, labels, names[:num_classes])


@pytest.mark.parametrize("num_classes", [2, 3, 40, 120])
def test_the_diagonal_of_a_good_model_is_dark(tmp_path: Path, num_classes: int) -> None:
    draw_confusion(evaluation(num_classes), tmp_path / "c.png", title="runs/$x: test")
    picture = pixels(tmp_path / "c.png")
    dark = (picture[..., 0] < 60) & (picture[..., 2] > 100)
    rows, columns = np.nonzero(dark[:, : int(0.8 * dark.shape[1])])
    assert len(rows) > 500
    assert np.corrcoef(rows, columns)[0, 1] > 0.7  # from the upper left to the lower right


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 40])
def test_each_head_has_points_of_its_own_colour(
    tmp_path: Path, num_classes: int, num_heads: int
) -> None:
    overall = evaluation(num_classes)
    heads = dict.fromkeys(("class", "distillation", "average")[:num_heads], overall)
    counts = tuple(range(1, num_classes + 1))
    breakdown = Breakdown(overall, heads if num_heads > 1 else {}, (), counts)
    draw_counts(breakdown, tmp_path / "c.png", title="runs/$x: test")
    picture = pixels(tmp_path / "c.png")
    assert picture.shape[1] > 1000
    assert (picture != 255).any(axis=-1).sum() > 2000


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VitrellisError, match=r"could not write .*c\.png"):
        learning_curves({"a": ROWS}, tmp_path / "file" / "c.png", title="x")
    with pytest.raises(VitrellisError, match=r"could not write .*c\.png"):
        draw_confusion(evaluation(2), tmp_path / "file" / "c.png", title="x")
