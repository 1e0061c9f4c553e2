"""Quiet commands, hints on keys, completion, and what a run says of its start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.command import run_here
from vitrellis.cli.recipe_names import complete_recipe
from vitrellis.errors import UsageError
from vitrellis.recipe import load_recipe
from vitrellis.recipe.messages import OTHER_WORDS
from vitrellis.recipe.recipe import Recipe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import Results

SMALL = (
    *("data.train_size=40", "training.epochs=1", "schedule.warmup_epochs=0", "machine.threads=1"),
    *("model.name=vit_micro_patch7_28", "model.args=null"),
)


def test_a_quiet_training_prints_its_results_alone(
    tmp_path: Path,
) -> None:
    words = ("train", "demo-alone", *SMALL, "--out")
    lines = run_here(*words, "quiet", "-q", cwd=tmp_path).out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "best",
        "last",
        "cost",
        "Run:",
        *["vitrellis"] * 2,
    ]
    assert "objective" in run_here(*words, "loud", cwd=tmp_path).out
    ended = run_here(*words, "loud", "--json", cwd=tmp_path)
    assert "complete" in ended.err
    told = json.loads(ended.out)
    assert told.pop("run") == "loud"
    assert Results.from_json(told, tmp_path) == RunDirectory(tmp_path / "loud").read_results()
    starts = json.loads((tmp_path / "quiet" / "provenance.json").read_text())["starts"]
    assert len(starts) == 1
    assert torch.__version__.startswith(starts[0]["packages"]["torch"])
    assert starts[0]["folder"] == str(tmp_path)
    assert starts[0]["command"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["lr=1e-4"], "'optimizer.lr'"),
        (["epochs=20"], "'training.epochs'"),
        (["--epochs", "20"], "training.epochs=20"),
        (["--lr=0.1"], "optimizer.lr=0.1"),
        (["--weight-decay", "0.1"], "optimizer.weight_decay=0.1"),
        (["--num-workers"], "machine.workers=VALUE"),
    ],
)
def test_words_of_other_codes_are_answered_with_the_key(words: list[str], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("demo-alone", words)
    assert key in str(caught.value)


def test_the_keys_that_are_named_exist() -> None:
    for key in OTHER_WORDS.values():
        section: object = Recipe
        for part in key.split("."):
            if part in ("args", "drop_path_rate", "cross_entropy", "label_smoothing"):
                continue  # of the model, or of a term
            fields = getattr(section, "model_fields")  # noqa: B009
            assert part in fields
            section = fields[part].annotation


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("vitrellis train photos-de", ["photos-deit"]),
        ("vitrellis compare demo --ra", ["--ray"]),
        ("vitrellis show ma", ["maps"]),
    ],
)
def test_a_shell_is_told_the_words(typed: str, completed: list[str]) -> None:
    shell = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    ended = subprocess.run(
        [Path(sys.executable).parent / "vitrellis"],
        env=os.environ | shell | {"_VITRELLIS_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.split() == completed


def test_names_of_recipes_are_completed() -> None:
    names = complete_recipe("photos")
    assert {"photos", "photos-alone", "photos-teacher"} <= set(names)
    assert all(name.startswith("photos") for name in names)
