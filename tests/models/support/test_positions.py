"""Positions in weights for other sizes, beside the interpolation of their two-dimensional grids."""

from __future__ import annotations

import json
import math
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.convit import GPSA
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.assembly.build import build_student
from vitrellis.assembly.imported import import_checkpoint
from vitrellis.errors import VitrellisError
from vitrellis.models import create_model
from vitrellis.models.support.positions import GridAttention, position_grids
from vitrellis.recipe import load_recipe
from vitrellis.runs.exported import Preprocessing, load_exported, save_model

Size = tuple[int, int]

SHALLOW: dict[str, dict[str, Any]] = {
    "vit_micro_patch8_64": {"depth": 1},
    "deit_tiny_patch16_224": {"depth": 1, "patch_size": 8},
    "deit_tiny_distilled_patch16_224": {"depth": 1, "patch_size": 8},
    "evit_deit_tiny_distilled_patch16_224": {"depth": 1, "patch_size": 8, "drop_layers": (0,)},
    "convit_tiny": {"depth": 1, "patch_size": 8, "local_up_to_layer": 1},
    "t2t_vit_7": {"depth": 1},
}
TOKENS = {  # prefix tokens, and pixels beside each other in a token
    "vit_micro_patch8_64": (1, 8),
    "deit_tiny_patch16_224": (1, 8),
    "deit_tiny_distilled_patch16_224": (2, 8),
    "evit_deit_tiny_distilled_patch16_224": (2, 8),
    "convit_tiny": (0, 8),
    "t2t_vit_7": (1, 16),
}
SIZES: list[tuple[Size, Size]] = [
    ((32, 128), (64, 64)),  # as many tokens, elsewhere
    ((64, 64), (128, 32)),
    ((48, 112), (112, 48)),  # 3 by 7 or 1 by 7 tokens, and their transpose
    ((80, 48), (64, 176)),
]


def export(folder: Path, name: str, size: Size, **args: Any) -> nn.Module:
    """A model with random positions, exported as a run does it."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, img_size=size, **args)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    save_model(
        model,
        folder,
        architecture=name,
        num_classes=3,
        model_args=args,
        class_names=("ash", "beech", "fir"),
        preprocessing=Preprocessing(
            img_size=size,
            channels=3,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            interpolation="bicubic",
        ),
    )
    return model


def directly(value: Tensor, old: Size, new: Size, num_prefix: int) -> Tensor:
    """The grid as an image of C channels, resized by torch."""
    image = value[0, num_prefix:].T.reshape(1, -1, *old)
    resized = F.interpolate(image, new, mode="bicubic", antialias=True)
    return torch.cat([value[0, :num_prefix], resized[0].flatten(1).T]).unsqueeze(0)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("name", TOKENS)
@torch.no_grad()
def test_tokens_through_both_doors(tmp_path: Path, name: str, old: Size, new: Size) -> None:
    model = export(tmp_path, name, old, **SHALLOW[name])
    num_prefix, patch = TOKENS[name]
    grids = [(height // patch, width // patch) for height, width in (old, new)]
    value: Any = model.get_parameter("pos_embed")
    expected = directly(value, grids[0], grids[1], num_prefix)
    if grids[0] != grids[1]:  # timm says the same
        theirs = resample_abs_pos_embed(value, list(grids[1]), list(grids[0]), num_prefix)
        torch.testing.assert_close(expected, theirs)
    loaded = load_exported(tmp_path, img_size=new)
    torch.testing.assert_close(loaded.model.get_parameter("pos_embed"), expected)
    assert loaded.preprocessing.img_size == new
    assert loaded.model(torch.randn(1, 3, *new)).shape == (1, 3)
    started = create_model(
        name,
        num_classes=3,
        img_size=new,
        weights=tmp_path / "model.safetensors",
        **SHALLOW[name],
    )
    torch.testing.assert_close(started.get_parameter("pos_embed"), expected)
    for key, other in model.state_dict().items():
        if key != "pos_embed":  # class tokens and heads are not touched
            assert torch.equal(started.state_dict()[key], other)


@pytest.mark.parametrize(("old", "new"), SIZES)
@torch.no_grad()
def test_maps_and_every_stage_of_a_pyramid(tmp_path: Path, old: Size, new: Size) -> None:
    model = export(tmp_path / "pit", "pit_ti_distilled_224", old, depth=[1, 1, 1])
    expected = F.interpolate(
        model.get_parameter("pos_embed"),
        [(side - 16) // 8 + 1 for side in new],
        mode="bicubic",
        antialias=True,
    )
    loaded = load_exported(tmp_path / "pit", img_size=new).model
    torch.testing.assert_close(loaded.get_parameter("pos_embed"), expected)

    model = export(tmp_path / "pvt", "pvt_tiny", old, depths=(1, 1, 1, 1))
    loaded = load_exported(tmp_path / "pvt", img_size=new).model
    for stage, patch in enumerate((4, 8, 16, 32)):
        name = f"stages.{stage}.pos_embed"
        grids = [(height // patch, width // patch) for height, width in (old, new)]
        expected = directly(model.get_parameter(name), grids[0], grids[1], int(stage == 3))
        torch.testing.assert_close(loaded.get_parameter(name), expected)


@pytest.mark.parametrize(("old", "new"), SIZES[:2])
@torch.no_grad()
def test_tables_of_relative_positions(tmp_path: Path, old: Size, new: Size) -> None:
    args = {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 8, "window_size": 16}
    name = "swin_tiny_patch4_window7_224"
    model = export(tmp_path, name, old, **args)
    loaded = load_exported(tmp_path, img_size=new).model
    windows = [(min(16, height // 4), min(16, width // 4)) for height, width in (old, new)]
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    before, after = model.get_parameter(key), loaded.get_parameter(key)
    heights, widths = zip(*((2 * h - 1, 2 * w - 1) for h, w in windows), strict=True)
    assert before.shape == (heights[0] * widths[0], 1)
    image = before.T.reshape(1, 1, heights[0], widths[0])
    expected = F.interpolate(image, (heights[1], widths[1]), mode="bicubic")
    torch.testing.assert_close(after, expected[0].flatten(1).T)
    # no offset is no offset, and the table is no transpose: rows stay rows
    centre = before.reshape(heights[0], widths[0])[heights[0] // 2, widths[0] // 2]
    assert after.reshape(heights[1], widths[1])[heights[1] // 2, widths[1] // 2] == pytest.approx(
        float(centre), abs=1e-5
    )
    assert loaded(torch.randn(1, 3, *new)).shape == (1, 3)


@torch.no_grad()
def test_the_class_tokens_rows_of_a_table_stay(tmp_path: Path) -> None:
    model = export(tmp_path, "beit_base_patch16_224", (32, 128), depth=1, embed_dim=24, num_heads=2)
    loaded = load_exported(tmp_path, img_size=64).model
    key = "blocks.0.attn.relative_position_bias_table"
    assert model.get_parameter(key).shape == (3 * 15 + 3, 2)
    assert loaded.get_parameter(key).shape == (7 * 7 + 3, 2)
    assert torch.equal(loaded.get_parameter(key)[-3:], model.get_parameter(key)[-3:])


def test_the_grids_are_recorded(tmp_path: Path) -> None:
    export(tmp_path, "pvt_tiny", (64, 128), depths=(1, 1, 1, 1))
    config = json.loads((tmp_path / "config.json").read_text())
    sides = [(16, 32), (8, 16), (4, 8), (2, 4)]
    assert config["vitrellis"]["position_grids"] == {
        f"stages.{number}.pos_embed": list(side) for number, side in enumerate(sides)
    }


@pytest.mark.parametrize("stripped", ["position_grids", "vitrellis"])
@torch.no_grad()
def test_a_config_of_an_earlier_version_or_timms_gives_the_size(
    tmp_path: Path, stripped: str
) -> None:
    model = export(tmp_path, "vit_micro_patch8_64", (32, 128), depth=1)
    config = json.loads((tmp_path / "config.json").read_text())
    del (config if stripped == "vitrellis" else config["vitrellis"])[stripped]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "model.safetensors"
    started = create_model("vit_micro_patch8_64", num_classes=3, depth=1, weights=weights)
    expected = directly(model.get_parameter("pos_embed"), (4, 16), (8, 8), 1)
    torch.testing.assert_close(started.get_parameter("pos_embed"), expected)


@torch.no_grad()
def test_a_file_alone_is_refused_unless_its_size_is_given(tmp_path: Path) -> None:
    name = "vit_micro_patch8_64"
    weights = tmp_path / "w.safetensors"
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, depth=1, img_size=(32, 48))
    save_file(model.state_dict(), weights)
    for size in ((64, 64), (32, 48)):  # even as many tokens may lie elsewhere
        with pytest.raises(
            VitrellisError, match=r"w\.safetensors: pos_embed holds 24 places.*init"
        ):
            create_model(name, num_classes=3, depth=1, img_size=size, weights=weights)
    args: dict[str, Any] = {"num_classes": 3, "depth": 1, "weights": weights}
    wrong: dict[str, Any] = {"img_size": 64, "weights_img_size": (32, 40)}
    with pytest.raises(VitrellisError, match="not that of 4x5 places"):
        create_model(name, **args, **wrong)
    started = create_model(name, **args, img_size=64, weights_img_size=(32, 48))
    expected = directly(model.get_parameter("pos_embed"), (4, 6), (8, 8), 1)
    torch.testing.assert_close(started.get_parameter("pos_embed"), expected)
    same = create_model(name, **args, img_size=(32, 48), weights_img_size=(32, 48))
    assert torch.equal(same.get_parameter("pos_embed"), model.get_parameter("pos_embed"))
    # a square number of tokens is a square, as in every published checkpoint
    square = create_model(name, num_classes=3, depth=1)
    save_file(square.state_dict(), weights)
    started = create_model(name, **args, img_size=(32, 128))
    expected = directly(square.get_parameter("pos_embed"), (8, 8), (4, 16), 1)
    torch.testing.assert_close(started.get_parameter("pos_embed"), expected)


def test_positions_of_another_kind_are_refused_between_rectangles(tmp_path: Path) -> None:
    export(tmp_path, "levit_128s", (32, 128))  # its biases have as many offsets at 64x64
    with pytest.raises(VitrellisError, match=r"attention_biases.*input.img_size=\[32, 128\]"):
        load_exported(tmp_path, img_size=64)


@torch.no_grad()
def test_a_recipe_and_an_import_take_the_size(tmp_path: Path) -> None:
    model = export(tmp_path / "run", "vit_micro_patch4_28", (16, 64))
    lone = tmp_path / "lone.safetensors"
    shutil.copy(tmp_path / "run" / "model.safetensors", lone)
    expected = directly(model.get_parameter("pos_embed"), (4, 16), (8, 8), 1)
    source: Any = types.SimpleNamespace(num_classes=3, channels=3)
    for words in (
        [f"init.weights={tmp_path / 'run' / 'model.safetensors'}"],
        [f"init.weights={lone}", "init.weights_img_size=[16, 64]"],
    ):
        recipe = load_recipe("demo-vit-alone", ["input.img_size=32", *words])
        student = build_student(recipe, source)
        torch.testing.assert_close(student.get_parameter("pos_embed"), expected)
    run = import_checkpoint(
        lone,
        source="evit",
        model="vit_micro_patch4_28",
        out=tmp_path / "imported",
        overrides=["input.img_size=32", "init.weights_img_size=[16, 64]"],
    )
    imported = load_exported(run.best_model).model.get_parameter("pos_embed")
    plain = F.interpolate(
        model.get_parameter("pos_embed")[0, 1:].T.reshape(1, -1, 4, 16), (8, 8), mode="bicubic"
    )  # as EViT's own code does it
    torch.testing.assert_close(imported[0, 1:], plain[0].flatten(1).T)
    assert not torch.allclose(imported, expected)


def test_convit_knows_where_its_patches_are() -> None:
    with torch.device("cpu"):
        layer = GridAttention(16, num_heads=4)
    layer.grid = (4, 4)
    assert torch.equal(layer.get_rel_indices(16), GPSA.get_rel_indices(layer, 16))
    layer.grid = (2, 8)
    across, down, square = layer.get_rel_indices(16)[0].unbind(-1)
    for first, second in ((0, 15), (7, 8), (3, 12)):
        row = [divmod(place, 8) for place in (first, second)]
        assert down[first, second] == row[1][0] - row[0][0]
        assert across[first, second] == row[1][1] - row[0][1]
        assert square[first, second] == math.dist(row[0], row[1]) ** 2 or torch.isclose(
            square[first, second], torch.tensor(math.dist(row[0], row[1]) ** 2)
        )
    model = create_model("convit_tiny", num_classes=3, img_size=(32, 128), depth=1)
    assert position_grids(model) == {"pos_embed": (2, 8)}
    assert isinstance(model.get_submodule("blocks.0.attn"), GridAttention)
