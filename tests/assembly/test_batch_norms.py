"""Batches of one image: refused before anything is trained, where a batch norm would see one value.

The rule is torch's own: `torch.nn.functional.batch_norm` raises for one value per channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitrellis
from vitrellis.data.batch_sizes import batch_sizes
from vitrellis.errors import UsageError
from vitrellis.models import create_model, norm_of_one_value
from vitrellis.recipe import recipe_from

RECIPE: dict[str, Any] = {
    "name": "student",
    "data": {"val_fraction": 0.25},
    "input": {"img_size": 28},
    "augmentation": {"crop": "padded", "padding": 2},
    "model": {"name": "vit_micro_patch7_28"},
    "training": {"epochs": 1, "batch_size": 12},
    "machine": {"accelerator": "cpu", "threads": 1},
    "objective": {"cross_entropy": {}},
}


def train(folder: Path, *, count: int = 25, **sections: Any) -> int | None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 3, 28, 28), generator=generator, dtype=torch.uint8)
    source = vitrellis.from_tensors(pixels, torch.arange(count) % 3)
    finished = vitrellis.train(recipe_from(RECIPE | sections), source=source, out=folder)
    return finished.results.last.epoch


@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet8", "mobilenetv3_small_050"])
@pytest.mark.parametrize("side", [28, 64])
def test_what_torch_would_refuse_is_found_without_training(name: str, side: int) -> None:
    model = create_model(name, num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = norm_of_one_value(model, 3, (side, side))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    if found is None:
        model(torch.rand(1, 3, side, side))
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.rand(1, 3, side, side))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"epochs": 1, "batch_size": 1}}, r"training\.batch_size: 1 has a portion"),
        (
            {"training": {"epochs": 1, "batch_size": 6, "accumulate": 6}},
            r"training\.batch_size: 6, computed in 6 portions, has a portion of one image",
        ),
        (
            {"training": {"epochs": 1, "batch_size": 6, "drop_last": False}},
            r"training\.drop_last: false, and the last batch of an epoch has 1 of the 19 images",
        ),
    ],
)
def test_a_batch_of_one_image(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        train(tmp_path / "run", **sections, model={"name": "resnet18"})
    assert "layer4.0.bn1 of model (ResNet)" in str(error.value)
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", **sections) == 0  # a ViT has no batch norms


def test_a_teacher_in_train_mode(tmp_path: Path) -> None:
    teacher = {"model": "resnet18", "mode": "train"}
    guided: dict[str, Any] = {"objective": {"cross_entropy": {}, "kd": {}}, "teacher": teacher}
    with pytest.raises(UsageError, match=r"layer4\.0\.bn1 of teacher \(ResNet\)"):
        train(tmp_path / "run", **guided, training={"epochs": 1, "batch_size": 1})
    # 13 images are validated in batches of 12, so that the last one is alone
    assert train(tmp_path / "run", count=52, **guided) == 0


def test_batch_norms_of_a_term(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"paco\.projection\.1 of the objective"):
        train(
            tmp_path / "run",
            objective={"paco": {}},
            training={"epochs": 1, "batch_size": 1},
        )


def test_a_model_without_batch_norms_is_not_run() -> None:
    assert norm_of_one_value(nn.Linear(3, 2), 3, (28, 28)) is None


@pytest.mark.parametrize("count", [1, 7, 24, 25, 100])
@pytest.mark.parametrize("batch_size", [1, 6, 64])
@pytest.mark.parametrize("selected_round", [1, 16])
def test_the_batches_of_an_epoch(count: int, batch_size: int, selected_round: int) -> None:
    selected, whole, rest = batch_sizes(
        count, batch_size, 1, drop_last=False, selected_round=selected_round
    )
    shown = list(range(count))[: count // selected_round * selected_round or count]
    expected = [len(shown[first : first + whole]) for first in range(0, len(shown), whole)]
    assert selected == len(shown)
    assert [whole] * (selected // whole) + [rest] * (rest > 0) == expected
