"""A run whose teacher or student has learned nothing says so, on the screen and in its results."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training.command import FEW_IMAGES, TINY, run
from vitrellis.runs.directory import RunDirectory

IDLE = [word for word in TINY if not word.startswith("teacher.")]
IDLE += [
    "teacher.overrides=[training.epochs=1, schedule.warmup_epochs=0, model.name=cifar_resnet8, "
    "optimizer.lr=1.0e-9]",
    "optimizer.lr=1.0e-9",
]
"""Rates at which nothing can be learned."""


def test_a_student_and_a_teacher_without_knowledge(tmp_path: Path) -> None:
    words = ["train", "demo", *IDLE, FEW_IMAGES, "--out", "runs/x"]
    said = run(*words, cwd=tmp_path)
    own, shown, student = (
        said.index(f"warning: {text}")
        for text in (
            "demo-teacher, test images: ",  # when its training ends
            "teacher, validation images: ",  # on the student's images, before they are trained on
            "demo, test images: ",
        )
    )
    assert own < shown < student
    warnings = RunDirectory(tmp_path / "runs" / "x").read_results().warnings
    assert any(text.startswith("near chance: class-balanced accuracy ") for text in warnings)
    for text in warnings:
        assert f"warning: demo, test images: {text}" in said
        assert f"warning: demo, test images: {text}" in run(*words, cwd=tmp_path)  # complete now
        assert f"warning: {text}" in run("eval", "runs/x", cwd=tmp_path)
    figures = json.loads(run("eval", "runs/x", "--json", cwd=tmp_path))
    assert figures["warnings"] == list(warnings)
