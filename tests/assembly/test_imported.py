"""Published checkpoints as runs. The files are written here as the training codes write theirs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        UsageError, match="holds an imported or pruned model, which has no training"
    ):
        train("demo-alone", out=run.path)
    assert (run.best_model / "model.safetensors").read_bytes() == before


def resnet_names(blocks: tuple[int, ...], widths: tuple[int, ...], basic: bool) -> dict[str, Any]:
    """Names and shapes of tiny-transformers' ResNets with a stem for large images."""
    last = widths[-1] if basic else 4 * widths[-1]
    shapes: dict[str, Any] = {"stem.conv.weight": (64, 3, 7, 7), "stem.bn": 64}
    before = 64
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        out = width if basic else 4 * width
        for block in range(1, count + 1):
            name = f"s{stage}.b{block}"
            if before != out or (stage > 1 and block == 1):
                shapes |= {f"{name}.proj.weight": (out, before, 1, 1), f"{name}.bn": out}
            parts = [("a", before, width, 3), ("b", width, out, 3)]
            if not basic:
                parts = [("a", before, width, 1), ("b", width, width, 3), ("c", width, out, 1)]
            for part, inside, outside, side in parts:
                shapes[f"{name}.f.{part}.weight"] = (outside, inside, side, side)
                shapes[f"{name}.f.{part}_bn"] = outside
            before = out
    return shapes | {"head.fc.weight": (7, last), "head.fc.bias": (7,)}


def filled(shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by the rule of the vectors; a number stands for a batch norm."""
    entries: list[tuple[str, list[int], str]] = []
    for name, shape in shapes.items():
        if isinstance(shape, int):
            parts = ("weight", "bias", "running_mean", "running_var")
            entries += [(f"{name}.{part}", [shape], "float32") for part in parts]
            entries.append((f"{name}.num_batches_tracked", [], "int64"))
        else:
            entries.append((name, list(shape), "float32"))
    return state_by_rule(entries)


def bottleneck(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """A published block in torch's functions, its stride in the first convolution."""

    def layer(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{name}.{bn}.{key}"] for key in keys)
        return F.batch_norm(x, mean, variance, scale, shift)

    out = layer(x, "f.a", "f.a_bn", stride).relu()
    out = layer(out, "f.b", "f.b_bn").relu()
    return (layer(out, "f.c", "f.c_bn") + layer(x, "proj", "bn", stride)).relu()


@torch.no_grad()
def test_tiny_transformers_resnets_of_four_stages(tmp_path: Path) -> None:
    state = filled(resnet_names((2, 2, 2, 2), (64, 128, 256, 512), basic=True))
    torch.save({"model_state": state, "epoch": 1, "cfg": "MODEL: ..."}, tmp_path / "r18.pyth")
    words: dict[str, Any] = {"source": "tiny-transformers", "out": tmp_path / "r18"}
    run = import_checkpoint(tmp_path / "r18.pyth", model="resnet18", **words)
    loaded = load_exported(run.best_model).model.state_dict()
    assert len(loaded) == len(state)
    assert torch.equal(loaded["layer2.0.downsample.0.weight"], state["s2.b1.proj.weight"])
    assert torch.equal(loaded["layer4.1.bn2.running_var"], state["s4.b2.f.b_bn.running_var"])

    state = filled(resnet_names((1, 1, 1, 1), (64, 128, 256, 512), basic=False))
    torch.save({"model_state": state}, tmp_path / "r50.pyth")
    run = import_checkpoint(
        tmp_path / "r50.pyth",
        source="tiny-transformers",
        model="resnet50",
        out=tmp_path / "r50",
        overrides=["model.args.layers=[1,1,1,1]", "model.args.stride_1x1=true"],
    )
    model = load_exported(run.best_model).model
    x = reference_input(7, (2, 256, 9, 9))
    torch.testing.assert_close(
        model.get_submodule("layer2")(x), bottleneck(state, "s2.b1", x, 2), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_pacos_classifier_of_normalised_features(tmp_path: Path) -> None:
    state, description, _ = published("deitlt_paco_moco_resnet32_c100")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "p.tar")
    given = description["input"]
    images = reference_input(given["seed"], tuple(given["shape"]))
    models: list[Any] = []
    for normalized in ("true", "false"):
        run = import_checkpoint(
            tmp_path / "p.tar",
            source="paco",
            model="cifar_resnet32",
            out=tmp_path / normalized,
            overrides=["model.args.shortcut=pad", f"model.args.normalize_features={normalized}"],
        )
        models.append(load_exported(run.best_model).model)
    features = models[1].forward_head(models[1].forward_features(images), pre_logits=True)
    unit = features / features.norm(dim=1, keepdim=True)
    expected = unit @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(models[0](images), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(models[1](images), expected)


def test_pacos_resnet50_keeps_its_names(tmp_path: Path) -> None:
    encoder = create_model("resnet50", num_classes=5, layers=[1, 1, 1, 1]).state_dict()
    head = {"linear.weight": encoder.pop("fc.weight"), "linear.bias": encoder.pop("fc.bias")}
    state = {f"encoder_q.{name}": value for name, value in encoder.items()} | head
    state |= {f"encoder_k.{name}": value for name, value in encoder.items()}
    state |= {"queue": torch.zeros(8, 4), "encoder_q.fc.0.weight": torch.zeros(4, 2048)}
    torch.save({"state_dict": state}, tmp_path / "p.tar")
    run = import_checkpoint(
        tmp_path / "p.tar",
        source="deit-lt",
        model="resnet50",
        out=tmp_path / "run",
        overrides=["model.args.layers=[1,1,1,1]"],
    )
    loaded = load_exported(run.best_model).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in encoder.items())
    assert torch.equal(loaded["fc.weight"], head["linear.weight"])


@torch.no_grad()
def test_evit_at_another_size(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"depth": 4, "embed_dim": 96, "num_heads": 2, "drop_layers": [1, 3]}
    small: Any = create_model("evit_deit_tiny_patch16_224", num_classes=5, img_size=64, **shape)
    path = deit_style(tmp_path / "evit.pth", small.state_dict())
    run = import_checkpoint(
        path,
        source="evit",
        model="evit_deit_tiny_patch16_224",
        out=tmp_path / "run",
        overrides=["input.img_size=96", *(f"model.args.{k}={v}" for k, v in shape.items())],
    )
    mine = load_exported(run.best_model).model.get_parameter("pos_embed")
    places = small.pos_embed[:, 1:].transpose(1, 2).reshape(1, 96, 4, 4)
    expected = F.interpolate(places, 6, mode="bicubic", align_corners=False)
    torch.testing.assert_close(mine[:, 1:], expected.reshape(1, 96, -1).transpose(1, 2))
    assert torch.equal(mine[:, :1], small.pos_embed[:, :1])


@torch.no_grad()
def test_pvt_v2_keeps_its_eps(tmp_path: Path) -> None:
    state, description, arrays = published("pvtv2-b0_c100")
    torch.save({"model_state": state}, tmp_path / "p.pyth")
    run = import_checkpoint(
        tmp_path / "p.pyth", source="tiny-transformers", model="pvt_v2_b0", out=tmp_path / "run"
    )
    model = load_exported(run.best_model).model
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    given = description["input"]
    logits = model(reference_input(given["seed"], tuple(given["shape"])))
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 2e-5
    timm.create_model(f"local-dir:{run.best_model}", pretrained=True)  # with timm's own eps


@torch.no_grad()
def test_mdistillers_resnets(tmp_path: Path) -> None:
    args: dict[str, Any] = {"stem_width": 8, "widths": [16, 32, 64]}
    model: Any = create_model("cifar_resnet8", num_classes=5, **args).eval()
    renamed = {}
    for name, value in model.state_dict().items():
        parts = name.replace("shortcut", "downsample").split(".")
        stage = [f"layer{int(parts[1]) + 1}", *parts[2:]] if parts[0] == "stages" else parts
        renamed[".".join(stage)] = value
    assert "layer1.0.downsample.0.weight" in renamed  # from 8 to 16 channels
    torch.save({"model": renamed, "epoch": 240}, tmp_path / "m.pth")
    run = import_checkpoint(
        tmp_path / "m.pth",
        source="mdistiller",
        model="cifar_resnet8",
        out=tmp_path / "run",
        overrides=[f"model.args.{key}={value}" for key, value in args.items()],
    )
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_exported(run.best_model).model(images), model(images))
