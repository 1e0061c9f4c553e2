"""Every model of `vitrellis models` is exported, and agrees with eager torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.models.one_block import ONE_BLOCK
from vitrellis.errors import UsageError
from vitrellis.export.description import Description
from vitrellis.export.graph import ImageClassifier, export_program, obstacle_to_free_size
from vitrellis.export.onnx_classifier import OnnxClassifier
from vitrellis.export.onnx_writer import write_onnx
from vitrellis.models import IN_TIMM, create_model, list_models
from vitrellis.runs.exported import Preprocessing, Trained

FAST = ("cifar_resnet8", "dhvt_micro_patch4", "vit_micro_patch7_28")
SQUARE = ("convit_tiny", "pit_ti_224", "pit_ti_distilled_224")  # timm's are built for squares


def trained(name: str, **pruning: Any) -> Trained:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    ours = name in list_models()
    side = (cfg.min_input_size or cfg.input_size)[-1] if ours else 64
    side = 224 if name in SQUARE else side
    size = (side, side if name in SQUARE else 2 * side)
    torch.manual_seed(0)
    arguments = ONE_BLOCK.get(name.split("_")[0], {}) if ours else {}
    model = create_model(name, num_classes=5, img_size=size, **arguments, **pruning).eval()
    settings = Preprocessing(size, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")
    return Trained(model, name, tuple("abcde"), settings)


@pytest.mark.parametrize(
    "name",
    [
        *FAST,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*list_models(), *IN_TIMM)
            if name not in FAST
        ),
    ],
)
@torch.no_grad()
def test_a_model_agrees_at_other_batches_and_sizes(name: str, tmp_path: Path) -> None:
    assert_agrees(trained(name), tmp_path)


@pytest.mark.parametrize(
    ("name", "pruning"),
    [
        ("vit_micro_patch7_28", {"keep_rate": 0.7, "merge_tokens": True, "drop_layers": [0]}),
        pytest.param(
            "vit_micro_patch7_28",
            {"keep_rate": 0.5, "drop_layers": [0]},
            marks=pytest.mark.slow,
        ),
        ("dhvt_micro_patch4", {"keep_rate": 0.5, "drop_layers": [0]}),
    ],
)
@torch.no_grad()
def test_a_model_with_fewer_tokens_agrees(
    name: str, pruning: dict[str, Any], tmp_path: Path
) -> None:
    original = trained(name, **pruning)
    assert_agrees(original, tmp_path)
    with pytest.raises(UsageError, match="--free-size"):
        export_program(original, free_size=True)


def assert_agrees(original: Trained, tmp_path: Path) -> None:
    settings = original.preprocessing
    free_size = obstacle_to_free_size(original) is None
    program = export_program(original, free_size=free_size)
    description = Description.of(original, "float32", free_size=free_size)
    write_onnx(program, tmp_path / "model.onnx", description)
    exported = OnnxClassifier(tmp_path / "model.onnx")
    eager = ImageClassifier(original.model, settings.mean, settings.std).eval()
    height, width = settings.img_size
    shapes = [(1, height, width), (5, height, width)]
    shapes += [(3, height + 32, width + 64)] if free_size else []
    for batch, *sides in shapes:
        pixels = torch.randint(256, (batch, 3, *sides), dtype=torch.uint8)
        expected = eager(pixels)
        torch.testing.assert_close(program.module(check_guards=False)(pixels), expected)
        torch.testing.assert_close(exported.run(pixels), expected[1], rtol=1e-4, atol=1e-5)
