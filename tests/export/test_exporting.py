"""Exports of models that the command's own test does not train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitrellis.data.source import Split, TensorImages
from vitrellis.export.exporting import RealImages, Target, export_model
from vitrellis.models import create_model
from vitrellis.runs.exported import Preprocessing, Trained


@pytest.mark.parametrize("count", [3, 19, 32])
def test_a_cnn_in_8_bits_is_calibrated_on_any_number_of_images(tmp_path: Path, count: int) -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", num_classes=3).eval()
    settings = Preprocessing((16, 16), 3, (0.5,) * 3, (0.25,) * 3, "bicubic")
    trained = Trained(model, "cifar_resnet8", ("a", "b", "c"), settings)
    images = torch.randint(0, 256, (count, 3, 20, 18), dtype=torch.uint8)
    split = Split(TensorImages(images), torch.arange(count) % 3)
    target = Target(tmp_path / "model.onnx", "onnx", "int8", free_size=False)
    agreement = export_model(trained, target, RealImages(split, split))
    assert agreement.num_images == count
    assert 0 < agreement.largest_difference < 0.1  # other numbers than float32, and near them
    assert target.path.stat().st_size > 0
