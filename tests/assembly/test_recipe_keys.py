"""What is wrong with a model, its weights or its blocks is said with the recipe's key of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import tiny
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model

KD: dict[str, Any] = {"objective": {"kd": {}}}
OF_RECIPE: dict[str, Any] = {
    "recipe": "photos-teacher",
    "overrides": ["training.epochs=1", "schedule.warmup_epochs=0", "input.img_size=28"],
}


def of_recipe(**changes: object) -> dict[str, Any]:
    """A teacher by recipe, with a change to it."""
    overrides = [*OF_RECIPE["overrides"], *(f"{key}={value}" for key, value in changes.items())]
    return KD | {"teacher": OF_RECIPE | {"overrides": overrides}}


def locality(**blocks: object) -> dict[str, Any]:
    both = {"student_blocks": [0, 1], "teacher_blocks": [0, 1]} | blocks
    teacher = {"model": "cifar_resnet8"}
    return {"teacher": teacher, "objective": {"locality": both}}


def several(**changes: object) -> dict[str, Any]:
    """Two teachers, the second of them changed."""
    first = {"model": "cifar_resnet8"}
    return KD | {"teachers": {"first": first, "second": changes}}


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("model.name", {"model": {"name": "nope"}}),
        ("model.name", {"model": {"name": "local-dir:nowhere"}}),
        ("model.args.depth", {"model__args": {"depth": "x"}}),
        ("model.args.foo", {"model__args": {"foo": 1}}),
        ("model.args.norm_eps", {"model__args": {"norm_eps": "x"}}),
        ("model.args.class_token_std", {"model__args": {"class_token_std": "x"}}),
        ("init.weights", {"init": {"weights": "nofile.pth"}}),
        ("init.pretrained", {"init": {"pretrained": True}, "input__normalization": "imagenet"}),
        ("teacher.model", KD | {"teacher": {"model": "nope"}}),
        ("teacher.args.foo", KD | {"teacher": {"model": "cifar_resnet8", "args": {"foo": 1}}}),
        ("teacher.weights", KD | {"teacher": {"model": "cifar_resnet8", "weights": "no.pth"}}),
        ("teacher.run", KD | {"teacher": {"run": "nowhere"}}),
        ("teachers.second.run", several(run="nowhere")),
        ("teachers.second.model", several(model="nope")),
        ("teachers.second.args", several(model="cifar_resnet8", args={"url": "x"})),
        ("teachers.second.weights", several(model="cifar_resnet8", weights="no.pth")),
        ("teacher.overrides.model.name", of_recipe(**{"model.name": "nope"})),
        ("teacher.overrides.model.args.foo", of_recipe(**{"model.args.foo": 1})),
        ("teacher.overrides.init.weights", of_recipe(**{"init.weights": "no.pth"})),
        ("objective.locality.student_blocks", locality(student_blocks=[0, 99])),
        ("objective.locality.teacher_blocks", locality(teacher_blocks=[0, 99])),
    ],
)
def test_the_key_is_named(tmp_path: Path, key: str, changes: dict[str, Any]) -> None:
    with pytest.raises(VitrellisError) as refusal:
        tiny(tmp_path, **changes)
    assert str(refusal.value).startswith(f"{key}: ")
    assert not (tmp_path / "run").exists()


def test_a_teachers_recipe_is_named_where_no_change_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("extends: photos-teacher\nmodel: {name: nope}\n")
    changes = KD | {"teacher": OF_RECIPE | {"recipe": str(tmp_path / "wrong.yaml")}}
    with pytest.raises(UsageError, match=r"teacher\.recipe \(.*wrong\.yaml\): model\.name: "):
        tiny(tmp_path, **changes)


@pytest.mark.parametrize(
    ("model", "said"),
    [("vit_micro_patch7_28", "no layer 99, .*pruning"), ("resnet18", "cannot be left out of it")],
)
def test_layers_that_cannot_prune(tmp_path: Path, model: str, said: str) -> None:
    pruning = {"keep_rate": 0.5, "layers": [99]}
    with pytest.raises(UsageError, match=f"^{model}: .*{said}"):
        tiny(tmp_path, model={"name": model}, pruning=pruning)
    assert not (tmp_path / "run").exists()


def test_the_argument_at_fault() -> None:
    with pytest.raises(UsageError, match="refuses depth='x'"):
        create_model("vit_micro_patch7_28", num_classes=3, depth="x", drop_path_rate=0.1)
