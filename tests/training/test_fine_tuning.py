"""Fine-tuning: what a run starts from, what of it stays as it is, and what is said of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vitrellis
from tests.training.tiny import tiny
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, read_state_dict
from vitrellis.models.support.interop import load_reference_weights

DHVT: dict[str, Any] = {"model": {"name": "dhvt_micro_patch4", "args": {"depth": 2}}}
STILL: dict[str, Any] = {"optimizer": {"lr": 1e-12, "weight_decay": 0}, "training__epochs": 1}


def weights(folder: Path) -> dict[str, Tensor]:
    return read_state_dict(folder / "model.safetensors")


def test_frozen_parts_and_their_statistics_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny(tmp_path, "first", **DHVT, training__epochs=1)
    init = {"weights": str(first.run.path), "freeze": ["patch_embed", "blocks.0"]}
    second = tiny(tmp_path, "second", **DHVT, init=init, training__ema=0.9)
    before = weights(first.run.best_model)
    for folder in (second.run.last_model, second.run.last_model_without_ema):
        after = weights(folder)
        same = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert same == {n for n in after if n.startswith(("patch_embed.", "blocks.0."))}
    names = {name.rpartition(".")[2] for name in same}
    assert {"running_mean", "running_var", "num_batches_tracked"} <= names


def test_a_resumed_run_keeps_what_is_frozen(tmp_path: Path) -> None:
    first = tiny(tmp_path, "first", **DHVT, training__epochs=1)
    settings: dict[str, Any] = DHVT | {"init": {"weights": str(first.run.path), "freeze": 2}}
    settings |= {"optimizer": {"lr": 1e-3, "layer_decay": 0.5}}
    whole = tiny(tmp_path, "second", **settings)
    before = weights(whole.run.last_model)
    whole.run.results_file.unlink()  # as if killed before the end
    (whole.run.last_model / "model.safetensors").unlink()
    after = weights(tiny(tmp_path, "second", **settings).run.last_model)
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_another_number_of_classes_and_another_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 28, 28), generator=generator, dtype=torch.uint8)
    source = vitrellis.from_tensors(images, torch.arange(40) % 5)
    first = tiny(tmp_path, "first", training__epochs=1)
    changes = ["input.img_size=42", "training.epochs=1", "training.batch_size=10"]
    changes += [
        f"init.weights={first.run.path}",
        "optimizer.lr=1e-12",
        "model.name=vit_micro_patch7_28",
    ]
    changes += ["schedule.warmup_epochs=0", "schedule.min_lr=0", "optimizer.weight_decay=0"]
    with caplog.at_level(logging.WARNING):
        recipe = vitrellis.load_recipe("photos-alone", [*changes, "model.args={}"])
        second = vitrellis.train(recipe, source=source, out=tmp_path / "second")
    assert any("starts anew: head.weight, head.bias" in message for message in caplog.messages)
    before, after = weights(first.run.best_model), weights(second.run.last_model)
    assert after["head.weight"].shape[0] == 5
    assert after["pos_embed"].shape[1] == 1 + 6 * 6
    for name in before.keys() - {"head.weight", "head.bias", "pos_embed"}:
        torch.testing.assert_close(after[name], before[name])


def test_weights_of_published_code_are_a_start(tmp_path: Path) -> None:
    """mdistiller counts stages from 1, and calls a shortcut a downsample."""
    model = {"name": "cifar_resnet8"}
    ours = create_model("cifar_resnet8", num_classes=7)
    names = {}
    for name in ours.state_dict():
        their_name = name.replace("shortcut", "downsample")
        for stage in range(3):
            their_name = their_name.replace(f"stages.{stage}.", f"layer{stage + 1}.")
        names[their_name] = name
    theirs = {their: ours.state_dict()[name] for their, name in names.items()}
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    checked = create_model("cifar_resnet8", num_classes=7)
    load_reference_weights(checked, tmp_path / "theirs.pth", "mdistiller")
    init = {"weights": str(tmp_path / "theirs.pth"), "source": "mdistiller", "freeze": "body"}
    after = weights(tiny(tmp_path, model=model, init=init, training__epochs=1).run.last_model)
    for name, value in ours.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert after["fc.weight"].shape[0] == 3
    with pytest.raises(VitrellisError, match="not the weights of this model"):
        tiny(tmp_path, "plain", model=model, init={"weights": init["weights"]})


def test_weights_that_go_with_another_eps(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.pth")
    init = {"weights": str(tmp_path / "theirs.pth"), "source": "tiny-transformers"}
    with pytest.raises(UsageError, match=r"Add model\.args\.norm_eps=1e-06"):
        tiny(tmp_path, model={"name": "pvt_v2_b0"}, init=init, input={"img_size": 32})


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"weights": "FIRST"}, "holds a dhvt_micro_patch4"),
        ({"weights": "FIRST", "source": "deit"}, "unknown source of weights 'deit'"),
        ({"weights": "no.pth"}, r"no\.pth: no such file of weights"),
        ({"weights": "OTHER"}, "none of its tensors is named as one of the model"),
        ({"freeze": ["blocks.7"]}, r"has no part 'blocks\.7'"),
    ],
)
def test_what_cannot_be_a_start(tmp_path: Path, init: dict[str, Any], message: str) -> None:
    if init.get("weights") == "FIRST":
        first = tiny(tmp_path, "first", **DHVT, training__epochs=1)
        init = init | {"weights": str(first.run.path)}
    if init.get("weights") == "OTHER":
        torch.save({"encoder.w": torch.zeros(2)}, tmp_path / "other.pth")
        init = init | {"weights": str(tmp_path / "other.pth")}
    with pytest.raises(VitrellisError, match=message):
        tiny(tmp_path, "second", init=init)
    assert not (tmp_path / "second" / "checkpoints").exists()
