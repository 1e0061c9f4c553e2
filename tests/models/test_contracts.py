"""The properties that every model of ours shares with timm's models.

Every model is tested with few blocks, since the others are alike; each once for all the tests that
leave it as it was. Large ones are built without values, and exports take one model of each file.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from torch import Tensor, nn

from tests.models.one_block import ONE_BLOCK
from vitrellis.models import (
    block_channels,
    create_model,
    forward_with_maps,
    list_models,
    num_blocks,
    takes_img_size,
)

MODELS = list_models()
RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
LARGE = ("small", "base", "medium", "large", "t2t_vit_14", "cvt_21", *RESNETS)
QUICK = [name for name in MODELS if not any(word in name for word in LARGE)]
RESIZING = ("pvt", "t2t")  # they are built for one size, but resize their position embedding
ANY_SIZE = [n for n in QUICK if not takes_img_size(n) or n.startswith(RESIZING)]


def number_of_parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, num_classes=5).parameters())


def smallest_of_each_file() -> list[str]:
    files: dict[str, list[str]] = {}
    for name in QUICK:
        files.setdefault(timm.model_entrypoint(name).__module__, []).append(name)
    return [min(names, key=number_of_parameters) for names in files.values()]


FAST = smallest_of_each_file()
UNSEEN = re.compile(
    r"attn\.proj_k\.bias|attn\.conv_proj_k\.bn\.bias"  # softmax ignores what all keys share
    r"|stages\.2\.blocks\.1\.attn\.conv_proj_q\."  # the class token's query skips it
)
"""Parameters of CvT that cannot change its logits."""


SHALLOW: dict[str, dict[str, Any]] = {
    "cvt": {"depths": (1, 1, 2)},
    "dhvt": {"depth": 3},
    "evit": {"depth": 3, "drop_layers": (1,)},
    "pvt": {"depths": (1, 1, 1, 1)},
    "t2t": {"depth": 3},
    "vit": {"depth": 3},
}
"""Arguments for few blocks, by the beginning of a name; other models keep their depth."""


def size_of(name: str) -> int:
    """Pixels of the smallest image in which everything has something to attend to."""
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    return (cfg.min_input_size or cfg.input_size)[-1]


def build(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, **({"num_classes": 5, "img_size": size_of(name)} | kwargs))


def shallow(name: str, **kwargs: Any) -> Any:
    return build(name, **(SHALLOW.get(name.split("_")[0], {}) | kwargs))


@pytest.fixture(scope="module", params=QUICK)
def quick(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The name and a shallow model in eval mode, which tests leave as it was."""
    return request.param, shallow(request.param).eval()


@pytest.fixture(scope="module", params=FAST)
def fast(request: pytest.FixtureRequest) -> tuple[Any, Tensor, Tensor]:
    """A shallow model in eval mode, which tests leave as it was, images, and their logits."""
    model, images = shallow(request.param).eval(), picture(request.param)
    with torch.no_grad():
        return model, images, model(images)


def picture(
    name: str, batch: int = 2, channels: int = 3, factor: tuple[int, int] = (1, 1)
) -> Tensor:
    side = size_of(name)
    torch.manual_seed(1)
    return torch.randn(batch, channels, side * factor[0], side * factor[1])


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name: str) -> None:
    small = name in QUICK
    with torch.device("cpu" if small else "meta"):  # of large models, gradients without values
        model = (shallow(name) if small else build(name)).train()
        logits = model(picture(name, batch=2))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    unmoved = [n for n, p in learning.items() if p.grad is None or (small and not p.grad.any())]
    assert [n for n in unmoved if not UNSEEN.search(n)] == []
    fixed = sorted(n for n in dict(model.named_parameters()) if n not in learning)
    assert all(n == "pos_embed" or n.endswith("attn.w") for n in fixed)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", FAST)
@torch.no_grad()
def test_channels_and_shapes(name: str, channels: int) -> None:
    side = size_of(name)
    model = shallow(name, in_chans=channels, img_size=(side, 2 * side)).eval()
    images = picture(name, 1, channels, (1, 2))
    logits, maps = forward_with_maps(model, images, list(range(num_blocks(model))))
    assert isinstance(logits, Tensor)
    assert logits.shape == (1, 5)
    torch.testing.assert_close(logits, model(images))
    for taken, level in zip(maps, model.feature_info, strict=True):
        height = -(-side // level["reduction"])
        assert taken.shape == (1, level["num_chs"], height, 2 * height)
    model.get_submodule(model.feature_info[-1]["module"])


@torch.no_grad()
def test_other_sizes_without_being_told(quick: tuple[str, Any]) -> None:
    name, model = quick
    if name in ANY_SIZE:
        side = size_of(name)
        assert model(torch.randn(1, 3, side + 3, side + 8)).shape == (1, 5)


@torch.no_grad()
def test_taps_are_the_blocks_outputs_in_the_order_asked_for(quick: tuple[str, Any]) -> None:
    name, model = quick
    if name.startswith("evit"):
        return  # its blocks' tokens are not in their places; `test_evit.py` checks its maps
    blocks = [model.get_submodule(level["module"]) for level in model.feature_info]
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _a, out, n=number: seen.update({n: out}))
        for number, block in enumerate(blocks)
    ]
    asked = [2, 0, 1, 0]
    _, maps = forward_with_maps(model, picture(name), asked)
    for hook in hooks:
        hook.remove()
    for block, taken in zip(asked, maps, strict=True):
        out = seen[block]
        if out.ndim == 3:
            height, width = taken.shape[-2:]
            out = out[:, out.shape[1] - height * width :].mT.unflatten(-1, (height, width))
        assert torch.equal(taken, out)
    side = size_of(name)
    assert block_channels(model, asked, 3, (side, side)) == [taken.shape[1] for taken in maps]


@torch.no_grad()
def test_another_classifier(quick: tuple[str, Any]) -> None:
    name, model = quick
    pooled = model.forward_head(model.forward_features(picture(name)), pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    changed = copy.deepcopy(model)
    changed.reset_classifier(7)
    assert changed(picture(name)).shape == (2, 7)
    assert changed.num_classes == 7
    changed.reset_classifier(0)
    torch.testing.assert_close(changed(picture(name)), pooled)


@torch.no_grad()
def test_intermediates_as_in_timm(quick: tuple[str, Any]) -> None:
    name, model = quick
    images = picture(name)
    features, every = model.forward_intermediates(images)
    assert torch.equal(features, model.forward_features(images))
    assert len(every) == num_blocks(model)
    for indices, expected in (([0], every[:1]), ([-1], every[-1:]), (2, every[-2:])):
        maps = model.forward_intermediates(
            images, indices, stop_early=True, intermediates_only=True
        )
        assert len(maps) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    one_width = len({level["num_chs"] for level in model.feature_info}) == 1
    if one_width and not name.startswith("evit"):  # it leaves tokens behind
        (last,) = model.forward_intermediates(
            images, 1, norm=True, output_fmt="NLC", intermediates_only=True
        )
        torch.testing.assert_close(last, features[:, model.num_prefix_tokens :])
    if not name.startswith("vit"):
        with pytest.raises(ValueError, match=rf"block 99: there are {len(every)} blocks"):
            model.forward_intermediates(images, [99])


@pytest.mark.parametrize("name", FAST)
@torch.no_grad()
def test_saved_weights_are_the_whole_model(name: str, tmp_path: Path) -> None:
    model = shallow(name).train()
    model(picture(name))  # so that running statistics are not what they began as
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    again = shallow(name, weights=tmp_path / "weights.safetensors")
    images = picture(name, batch=1)
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", FAST)
def test_checkpointing_changes_nothing(name: str) -> None:
    plain, saving = shallow(name).train(), shallow(name).train()
    saving.set_grad_checkpointing(True)
    first, second = plain(picture(name)), saving(picture(name))
    torch.testing.assert_close(first, second)
    first.sum().backward()
    second.sum().backward()
    for mine, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_conventions(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    if not name.startswith(("vit", "evit")):  # timm's class lists tokens that it may not have
        assert model.no_weight_decay() <= dict(model.named_parameters()).keys()
    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    assert all(isinstance(head, nn.Linear) for head in heads)
    assert len(heads) == model.num_prefix_tokens if "distilled" in name else len(heads) == 1
    assert model.pretrained_cfg["architecture"] == name
    assert len(model.feature_info) == num_blocks(model)
    layers = group_parameters(model, model.group_matcher())
    assert sum(len(names) for names in layers.values()) == len(list(model.parameters()))
    assert len(layers) > len(model.feature_info)


@torch.no_grad()
def test_compiles_without_a_break(fast: tuple[Any, Tensor, Tensor]) -> None:
    model, images, _ = fast
    blocks = list(range(num_blocks(model)))
    torch.compiler.reset()  # torch compiles one function for eight models at most
    compiled = torch.compile(forward_with_maps, fullgraph=True, backend="eager")
    logits, maps = compiled(model, images, blocks)
    expected, expected_maps = forward_with_maps(model, images, blocks)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(maps, expected_maps)


@pytest.mark.filterwarnings("ignore")  # the ONNX exporter's own
@pytest.mark.parametrize("name", FAST)
@torch.no_grad()
def test_exports_with_a_free_batch_size(name: str, tmp_path: Path) -> None:
    side = size_of(name)
    model = shallow(name, img_size=(side, 2 * side), **ONE_BLOCK.get(name.split("_")[0], {})).eval()
    example = picture(name, batch=2, factor=(1, 2))
    batch = torch.export.Dim("batch")  # refused if the model makes a constant of it
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.onnx.export(program, (), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (entry,) = session.get_inputs()
    for size in (1, 5):  # not those that it was exported with
        images = picture(name, batch=size, factor=(1, 2))
        expected = model(images)
        torch.testing.assert_close(program.module()(images), expected)
        (logits,) = session.run(None, {entry.name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_half_precision_and_channels_last(fast: tuple[Any, Tensor, Tensor]) -> None:
    model, images, expected = fast
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(images).float(), expected, rtol=0.1, atol=0.1)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    logits = last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    model = build("dhvt_micro_patch4", drop_path_rate=0.5, drop_rate=0.5, proj_drop_rate=0.1)
    images = picture("dhvt_micro_patch4")
    model.eval()
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))
