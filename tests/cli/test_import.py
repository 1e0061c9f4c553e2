"""`vitrellis import`, and what can be done with the result."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.cli.command import assert_one_error, vitrellis
from tests.cli.conftest import Command
from tests.training.command import run
from vitrellis.models import create_model


def checkpoint(folder: Path, num_classes: int = 10) -> Path:
    torch.manual_seed(0)
    model = create_model("dhvt_micro_patch4", num_classes=num_classes, in_chans=1)
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "c.pth")
    return folder / "c.pth"


WORDS = ("--source", "dhvt", "--model", "dhvt_micro_patch4", "--out", "runs/it")


def test_an_imported_model_is_evaluated_and_predicts_and_teaches(
    tmp_path: Path, command: Command, place: Path
) -> None:
    checkpoint(tmp_path)
    overrides = ["data.source=fashion-mnist", "input.img_size=28"]
    out = run("import", "c.pth", *WORDS, *overrides, cwd=tmp_path)
    assert "vitrellis predict runs/it" in out
    ended = command(tmp_path, "eval", "runs/it", "--json")
    assert ended.err == ""
    assert json.loads(ended.out)["images"] == 4000
    rows = json.loads(command(tmp_path, "predict", "runs/it", str(place / "images"), "--json").out)
    assert len(rows) == 8
    assert rows[0]["predictions"][0]["class"] in {"Trouser", "Bag", "Sandal"} | set(
        json.loads((tmp_path / "runs" / "it" / "data.json").read_text())["class_names"]
    )
    quick = ["training.epochs=1", "schedule.warmup_epochs=0", "data.train_size=60"]
    quick += ["teacher.recipe=null", "teacher.run=runs/it", "machine.threads=1"]
    quick += ["objective.locality.teacher_blocks=[0, 1, 3]"]
    assert "Run: " in run("train", "demo", *quick, cwd=tmp_path)


def test_class_names_from_a_file(tmp_path: Path) -> None:
    checkpoint(tmp_path, num_classes=2)
    (tmp_path / "names.txt").write_text("ash\nfir\n", encoding="utf-8")
    run("import", "c.pth", *WORDS, "--classes", "names.txt", cwd=tmp_path)
    data = json.loads((tmp_path / "runs" / "it" / "data.json").read_text())
    assert data["class_names"] == ["ash", "fir"]


def test_what_must_be_said_is_asked_for(tmp_path: Path) -> None:
    assert "Missing option '--source'" in vitrellis("import", "c.pth", cwd=tmp_path).stderr
    assert_one_error(vitrellis("import", "c.pth", *WORDS, cwd=tmp_path), 1, "c.pth: no such file")
