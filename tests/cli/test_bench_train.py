"""`vitrellis bench --train`: the parts of a training step."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import assert_one_error, run_here, vitrellis
from tests.training.command import TINY
from vitrellis.teachers.teachers import Teachers


def test_the_time_of_a_teacher_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Teachers.forward

    def slow(self: Teachers, *arguments: Any) -> Any:
        time.sleep(0.1)
        return forward(self, *arguments)

    monkeypatch.setattr(Teachers, "forward", slow)
    words = ["bench", "--train", "demo-lg", *TINY, "--trace", "trace.json", "--json"]
    figures = json.loads(run_here(*words, cwd=tmp_path).out)
    assert figures["ms"].keys() == {"data", "teachers", "student", "backward", "optimizer", "rest"}
    assert figures["ms"]["teachers"] >= 100
    assert all(figures["ms"][part] > 0 for part in ("data", "student", "backward", "optimizer"))
    assert figures["batch_size"] == 16
    assert '"vitrellis: backward"' in (tmp_path / "trace.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]  # no run is left


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    for words, message in (
        (["--train", "demoo"], "unknown recipe 'demoo'"),
        (["--train", "demo", "training.epoch=3"], "training.epoch"),
        (["--train", "demo", "--precision", "bfloat16"], "training.precision=bf16-mixed"),
        (["--trace", "t.json", "vit_micro_patch7_28"], "--trace: belongs to --train"),
    ):
        assert_one_error(vitrellis("bench", *words, cwd=tmp_path), 2, message)
