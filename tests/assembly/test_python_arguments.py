"""Arguments of another kind, from Python: refused in plain words, and before a folder is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitrellis
from vitrellis.errors import UsageError

GIVEN = {"input.img_size": 28, "teacher.given": True, "objective.kd.weight": 1.0}


def source() -> Any:
    images = torch.zeros(6, 3, 28, 28, dtype=torch.uint8)
    return vitrellis.from_tensors(images, torch.arange(6) % 3)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("recipe", None),
        ("recipe", {"model": {}}),
        ("out", 3),
        ("source", torch.zeros(3)),
        ("source", "photos"),
        ("console", 3),
        ("teachers", [nn.Linear(1, 1)]),
        ("teachers", nn.Linear(1, 1)),
        ("terms", nn.Linear(1, 1)),
        ("terms", [nn.Linear(1, 1)]),
        ("on_epoch_end", 3),
    ],
)
def test_train_names_the_argument(tmp_path: Path, name: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {"recipe": "photos-alone", "out": tmp_path / "run"}
    with pytest.raises(UsageError, match=f"^{name}: .*should be"):
        vitrellis.train(**arguments | {"source": source(), name: wrong})
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_weights(tmp_path: Path) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 3, device="meta"))
    recipe = vitrellis.load_recipe("photos-alone", GIVEN)
    with pytest.raises(UsageError, match=r"teacher has no weights: its 1\.weight"):
        vitrellis.train(
            recipe, source=source(), out=tmp_path / "run", teachers={"teacher": teacher}
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((None,), "recipe"),
        ((3,), "recipe"),
        (("photos", None), "overrides"),
        (("photos", 3), "overrides"),
        (("photos", [3]), "overrides"),
    ],
)
def test_load_recipe_names_the_argument(arguments: Any, named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}: .* give "):
        vitrellis.load_recipe(*arguments)


def test_a_model_is_given_by_its_name() -> None:
    wrong: Any = None
    with pytest.raises(UsageError, match="given by its name"):
        vitrellis.create_model(wrong, num_classes=3)
