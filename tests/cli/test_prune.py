"""`vitrellis prune`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitrellis
from tests.cli.command import assert_one_error, run_here
from tests.cli.command import vitrellis as command
from tests.training.command import FEW_IMAGES, run
from vitrellis.experiments import keep_rate_search
from vitrellis.models.evit import EViT
from vitrellis.models.tome import ToMe

QUICK = ("--seconds", "0", "--batch-size", "4", "--num-images", "50")


def pruned(place: Path, out: str, *words: str) -> Any:
    """A pruned copy of the run, as `load_exported` reads it."""
    shutil.rmtree(place / out, ignore_errors=True)
    run_here("prune", "runs/x", "--out", out, *words, *QUICK, cwd=place)
    return vitrellis.load_exported(place / out / "model").model


def test_the_new_run_has_the_same_weights_and_fewer_tokens(place: Path) -> None:
    words = ("--keep-rate", "0.6", "--layers", "1,2", "--drop")
    model = pruned(place, "runs/evit", *words)
    assert isinstance(model, EViT)
    assert model.pruning_arguments() == {
        "keep_rate": 0.6,
        "drop_layers": [1, 2],
        "fuse_token": False,
    }
    for folder in ("model", "last"):
        before = load_file(place / "runs/x" / folder / "model.safetensors")
        after = load_file(place / "runs/evit" / folder / "model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_new_run_is_used_like_any_other(place: Path) -> None:
    model = pruned(place, "runs/tome", "--method", "tome", "--r", "3", "--layers", "0,1,2")
    assert isinstance(model, ToMe)
    images = torch.zeros(1, 1, 28, 28)
    assert model.forward_features(images).shape[1] == 1 + 16 - 3 * 3
    figures = json.loads(run_here("eval", "runs/tome", "--json", cwd=place).out)
    assert 0 <= figures["top1"] <= 1
    assert "0.png" in run_here("predict", "runs/tome", "images/0.png", cwd=place).out
    assert run_here("verify", "runs/tome", cwd=place).out
    rows = json.loads(
        run_here(
            "bench", "runs/tome", "--seconds", "0", "--batch-size", "4", "--json", cwd=place
        ).out
    )["rows"]
    assert rows[0]["pruning"]["forward"]["ratio"] > 0
    refused = command("export", "runs/tome", "--format", "timm", cwd=place)
    assert_one_error(refused, 2, "leaves tokens out")


def test_accuracy_and_speed_are_measured_in_the_precision_that_is_given(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = []
    for name in ("collect_logits", "measure_pruning"):
        original = getattr(keep_rate_search, name)

        def recorded(*words: Any, original: Any = original, **named: Any) -> Any:
            is_lower = torch.is_autocast_enabled("cpu")
            precisions.append(torch.get_autocast_dtype("cpu") if is_lower else torch.float32)
            return original(*words, **named)

        monkeypatch.setattr(keep_rate_search, name, recorded)
    for precision in ("float32", "bfloat16"):
        words = ("--keep-rate", "0.6", "--device", "cpu", "--precision", precision, "--json")
        told = json.loads(run_here("prune", "runs/x", *words, *QUICK, cwd=place).out)
        assert told["precision"] == precision
        assert precisions == [getattr(torch, precision)] * 3
        precisions.clear()


def test_a_pruned_run_is_pruned_anew(place: Path) -> None:
    pruned(place, "runs/first", "--keep-rate", "0.5")
    run_here(
        *("prune", "runs/first", "--method", "tome", "--keep-rate", "0.9", "--out", "runs/second"),
        *QUICK,
        cwd=place,
    )
    model = vitrellis.load_exported(place / "runs/second" / "model").model
    assert isinstance(model, ToMe)
    assert "merge_tokens: true" in (place / "runs/second" / "recipe.yaml").read_text()


def test_a_target_is_searched_on_validation_images(place: Path, tmp_path: Path) -> None:
    """The chosen one is the most accurate of those that are fast enough."""
    picture = tmp_path / "search.png"
    words = ("prune", "runs/x", "--target-speedup", "1.01", "--plot", str(picture), "--json")
    printed = run_here(*words, "--out", str(tmp_path / "fast"), *QUICK, cwd=place).out
    found = json.loads(printed)
    methods = {row["method"] for row in found["rows"]}
    assert methods == {None, "evit", "tome"}
    reached = [row for row in found["rows"] if row["gain"] and row["gain"]["ratio"] >= 1.01]
    assert found["chosen"] in reached
    assert found["chosen"]["val_balanced"] == max(row["val_balanced"] for row in reached) or (
        found["chosen"]["val_top1"] == max(row["val_top1"] for row in reached)
    )
    model: Any = vitrellis.load_exported(tmp_path / "fast" / "model").model
    assert min(model.keep_rate) == pytest.approx(found["chosen"]["keep_rate"])
    with Image.open(picture) as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_a_target_out_of_reach(place: Path, tmp_path: Path) -> None:
    words = ("prune", "runs/x", "--method", "tome", "--target-speedup", "90")
    failed = run_here(*words, "--out", str(tmp_path / "never"), *QUICK, cwd=place, code=1)
    assert "no keep rate that was tried makes it 90 times as fast" in failed.err
    assert failed.err.count("error: ") == 1
    assert failed.out.count("merged (tome)") == 12
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-rate", "0"], "above 0 and below 1"),
        (["--keep-rate", "1.2"], "above 0 and below 1"),
        (["--keep-rate", "0.3", "--method", "tome"], "at least half"),
        (["--layers", "1,9"], "there is no layer 9, only 0 to 3"),
        (["--layers", "1,b"], "whole numbers"),
        (["--r", "4"], "--method tome"),
        (["--r", "4", "--method", "tome", "--keep-rate", "0.7"], "choose one"),
        (["--target-speedup", "0.5"], "should be above 1"),
        (["--target-speedup", "2", "--keep-rate", "0.7"], "leave out --keep-rate"),
        (["--out", "images"], "images: is not empty"),
        (["--out", "new", "--keep-rate", "0.7", "--keep-rate", "0.5"], "give one --keep-rate"),
    ],
)
def test_wrong_words(place: Path, words: list[str], message: str) -> None:
    assert_one_error(command("prune", "runs/x", *words, *QUICK, cwd=place), 2, message)


def test_runs_that_cannot_be_pruned(tmp_path: Path) -> None:
    words = ["train", "demo-alone", "data.train_size=20", "training.epochs=1"]
    words += ["schedule.warmup_epochs=0", "machine.threads=1", "machine.accelerator=cpu"]
    words += [FEW_IMAGES, "data.val_fraction=0"]
    for model in ("cifar_resnet8", "vit_micro_patch7_28"):
        run(*words, f"model.name={model}", "--out", model, cwd=tmp_path)
    refused = command("prune", "cifar_resnet8", cwd=tmp_path)
    assert_one_error(refused, 2, "its model, cifar_resnet8, cannot be pruned by evit")
    refused = command("prune", "vit_micro_patch7_28", cwd=tmp_path)
    assert_one_error(refused, 2, "has no validation images")
