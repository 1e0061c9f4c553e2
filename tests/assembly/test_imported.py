"""Published checkpoints as runs. The files are written here as the training codes write theirs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.rule import load_case, reference_input, state_by_rule
from vitrellis.assembly.imported import import_checkpoint
from vitrellis.assembly.launch import train
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model
from vitrellis.models.support.weights import read_state_dict
from vitrellis.runs.exported import load_exported


def published(case: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    description, arrays = load_case(case)
    return state_by_rule(description["state_dict"]), description, arrays


def deit_style(path: Path, state: dict[str, Tensor], **more: Any) -> Path:
    """A checkpoint as the DeiT trainer writes it, which DHVT, EViT and DeiT-LT share."""
    content = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
        "epoch": 299,
        "max_accuracy": np.float64(80.5),
        "args": argparse.Namespace(lr=1e-3, data_path=Path("data"), output_dir="out"),
    }
    torch.save(content | more, path)
    return path


@torch.no_grad()
def test_dhvt_gives_the_recorded_logits(tmp_path: Path) -> None:
    state, description, arrays = published("dhvt_tiny_cifar_patch4")
    path = deit_style(tmp_path / "dhvt.pth", state)
    run = import_checkpoint(
        path, source="dhvt", model="dhvt_tiny_cifar_patch4", out=tmp_path / "runs" / "dhvt"
    )
    trained = load_exported(run.best_model)
    assert len(trained.class_names) == 100
    assert trained.preprocessing.img_size == (32, 32)
    assert trained.preprocessing.mean == (0.485, 0.456, 0.406)
    assert trained.preprocessing.interpolation == "bicubic"
    assert trained.preprocessing.crop_pct == 1  # datasets.py: resize_im = args.input_size > 32
    given = description["input"]
    logits = trained.model(reference_input(given["seed"], tuple(given["shape"])))
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 1e-4 * np.abs(arrays["logits"]).max()
    origin = json.loads((run.path / "imported.json").read_text())
    assert (origin["checkpoint"], origin["source"]) == ("dhvt.pth", "dhvt")


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("deitlt_resnet32_c100", []),
        ("deitlt_resnet32_c10_norm", ["model.args.cosine=true"]),
        ("deitlt_paco_moco_resnet32_c100", []),
    ],
)
def test_long_tail_teachers(tmp_path: Path, case: str, arguments: list[str]) -> None:
    state, description, arrays = published(case)
    torch.save({"state_dict": state, "best_acc1": torch.tensor(50.0)}, tmp_path / "t.pth.tar")
    run = import_checkpoint(
        tmp_path / "t.pth.tar",
        source="deit-lt",
        model="cifar_resnet32",
        out=tmp_path / "run",
        overrides=["model.args.shortcut=pad", *arguments],
    )
    given = description["input"]
    images = reference_input(given["seed"], tuple(given["shape"]))
    logits = load_exported(run.best_model).model(images)
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 1e-4


@pytest.mark.parametrize("source", ["dhvt", "evit", "deit-lt"])
def test_large_images_are_evaluated_as_by_deit(tmp_path: Path, source: str) -> None:
    """Resized to 256 pixels, of which the middle 224 are cut out; tiny-transformers squash."""
    state = create_model("deit_tiny_patch16_224", num_classes=3).state_dict()
    torch.save({"model": state}, tmp_path / "c.pth")
    run = import_checkpoint(
        tmp_path / "c.pth", source=source, model="deit_tiny_patch16_224", out=tmp_path / "run"
    )
    seen = load_exported(run.best_model).preprocessing
    assert (seen.interpolation, seen.crop_pct, seen.crop_mode) == ("bicubic", 0.875, "center")


def test_the_average_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    average = {name: value * 2 for name, value in state.items()}
    path = deit_style(tmp_path / "c.pth", state, model_ema=average)
    assert torch.equal(read_state_dict(path)["cls_token"], state["cls_token"])
    assert torch.equal(read_state_dict(path, ema=True)["cls_token"], average["cls_token"])
    with pytest.raises(VitrellisError, match=r"d.pth: holds no moving average \(model_ema"):
        read_state_dict(deit_style(tmp_path / "d.pth", state), ema=True)


def test_settings_of_a_command_line_are_read_but_payloads_in_them_are_not(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    state = create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    path = deit_style(tmp_path / "c.pth", state, args=argparse.Namespace(lr=Payload()))
    with pytest.raises(VitrellisError, match=r"c.pth: .*\(posix.system, which is not known"):
        read_state_dict(path)
    assert not (tmp_path / "executed").exists()


def test_nothing_is_written_where_something_does_not_fit(tmp_path: Path) -> None:
    state = create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    path = deit_style(tmp_path / "c.pth", state)
    out = tmp_path / "run"
    wrong: list[tuple[dict[str, Any], type[VitrellisError], str]] = [
        ({"source": "dvt"}, UsageError, "Did you mean 'dhvt'"),
        ({"model": "dhvt_micro_patch5"}, UsageError, "unknown model 'dhvt_micro_patch5'"),
        ({"model": "dhvt_tiny_cifar_patch4"}, VitrellisError, "c.pth: not the weights of dhvt_ti"),
        ({"model": "cifar_resnet8"}, VitrellisError, "it has no fc.weight"),
        ({"class_names": ["a", "b"]}, UsageError, "2 class names for a model of 3 classes"),
        ({"overrides": ["input.normalization=measured"]}, UsageError, "without images"),
        ({"overrides": ["modl.name=x"]}, UsageError, "model"),
        ({"overrides": ["data.source=fashion-mnist"]}, UsageError, "10 class names"),
    ]
    for change, kind, message in wrong:
        words: dict[str, Any] = {"source": "dhvt", "model": "dhvt_micro_patch4"} | change
        with pytest.raises(kind, match=message):
            import_checkpoint(path, out=out, **words)
        assert not out.exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    path = deit_style(
        tmp_path / "c.pth", create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    )
    with pytest.raises(UsageError, match="is not empty"):
        import_checkpoint(path, source="dhvt", model="dhvt_micro_patch4", out=tmp_path)
    run = import_checkpoint(path, source="dhvt", model="dhvt_micro_patch4", out=tmp_path / "run")
    before = (run.best_model / "model.safetensors").read_bytes()
    with pytest.raises(
        UsageError, match="holds an imported model, whose training cannot be resumed"
    ):
        train("demo-alone", out=run.path)
    assert (run.best_model / "model.safetensors").read_bytes() == before
