"""`vitrellis import`, and what can be done with the result."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from tests.training.command import TINY
from vitrellis.data.sources import Split, load_source
from vitrellis.models import create_model
from vitrellis.runs.exported import load_exported


def checkpoint(folder: Path, num_classes: int = 10) -> nn.Module:
    """The model whose weights are in `c.pth`."""
    torch.manual_seed(0)
    model = create_model("dhvt_micro_patch4", num_classes=num_classes, in_chans=1)
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "c.pth")
    return model


WORDS = ("--source", "dhvt", "--model", "dhvt_micro_patch4", "--out", "runs/it")


def test_an_imported_model_is_evaluated_and_predicts_and_teaches(
    tmp_path: Path, place: Path, test_images: Split
) -> None:
    original = checkpoint(tmp_path)
    overrides = ["data.source=fashion-mnist", "data.train_size=60", "input.img_size=28"]
    out = run_apart("import", "c.pth", *WORDS, *overrides, cwd=tmp_path).out
    assert "vitrellis predict runs/it" in out

    evaluated = run_here("eval", "runs/it", "--split", "train", "--json", cwd=tmp_path)
    assert evaluated.err == ""
    assert json.loads(evaluated.out)["images"] == 60

    words = ["predict", "runs/it", str(place / "images"), "--json"]
    rows = json.loads(run_here(*words, cwd=tmp_path).out)
    images = torch.stack([test_images.images[index] for index in range(8)])
    seen = load_exported(tmp_path / "runs" / "it" / "model").preprocessing.transform()(images)
    with torch.no_grad():
        answers = original.eval()(seen).argmax(dim=1).tolist()
    names = [row["predictions"][0]["class"] for row in rows]
    classes = load_source("fashion-mnist", None).class_names
    assert names == [classes[answer] for answer in answers]

    quick = [word for word in TINY if not word.startswith("teacher")]
    quick += ["training.epochs=1", "teacher.recipe=null", "teacher.run=runs/it"]
    quick += ["objective.locality.teacher_blocks=[0, 1, 3]"]
    assert "Run: " in run_here("train", "demo", *quick, cwd=tmp_path).out


def test_class_names_from_a_file(tmp_path: Path) -> None:
    checkpoint(tmp_path, num_classes=2)
    (tmp_path / "names.txt").write_text("ash\nfir\n", encoding="utf-8")
    words = ["import", "c.pth", *WORDS, "--classes", "names.txt", "--json", "-q"]
    told = json.loads(run_here(*words, cwd=tmp_path).out)
    assert told["run"] == "runs/it"
    assert told["classes"] == ["ash", "fir"]
    data = json.loads((tmp_path / "runs" / "it" / "data.json").read_text())
    assert data["class_names"] == ["ash", "fir"]


def test_missing_options_and_files_are_named(tmp_path: Path) -> None:
    assert "Missing option '--source'" in run_here("import", "c.pth", cwd=tmp_path, code=2).err
    assert_one_error(vitrellis("import", "c.pth", *WORDS, cwd=tmp_path), 1, "c.pth: no such file")
