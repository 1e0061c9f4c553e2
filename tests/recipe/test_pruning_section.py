"""The section on token pruning: what it refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, recipe_from


def pruned(epochs: int = 10, args: dict[str, Any] | None = None, **pruning: Any) -> Recipe:
    return recipe_from(
        {
            "model": {"name": "vit_tiny_patch4_32", "args": args or {}},
            "training": {"epochs": epochs},
            "pruning": pruning,
        }
    )


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"keep_rate": 0}, "pruning.keep_rate", "more than 0"),
        ({"keep_rate": 1.2}, "pruning.keep_rate", "at most 1"),
        ({"keep_rate": True}, "pruning.keep_rate", "not a number"),
        ({"from_epoch": 3, "until_epoch": 10}, "pruning.until_epoch", "training.epochs 10"),
        ({"from_epoch": 3, "until_epoch": 2}, "pruning", "before from_epoch 3"),
        ({"layers": []}, "pruning.layers", "too few"),
        ({"layers": [6, 3]}, "pruning", "should rise"),
        ({"layers": [-1]}, "pruning.layers", "at least 0"),
        ({"args": {"keep_rate": 0.5}}, "model.args.keep_rate", "the section pruning"),
        ({"keeprate": 0.5}, "pruning.keeprate", "keep_rate"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    settings: dict[str, Any], key: str, reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        pruned(**settings)
    assert key in str(caught.value)
    assert reason in str(caught.value)


def test_the_model_gets_the_rate_of_the_end() -> None:
    recipe = pruned(keep_rate=0.6, layers=[1, 2], fuse=False, args={"depth": 4})
    assert recipe.model_arguments == {
        "depth": 4,
        "keep_rate": 0.6,
        "drop_layers": [1, 2],
        "fuse_token": False,
    }
    assert recipe.model.arguments == {"depth": 4}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, ["layers 3, 6, 9 keep 0.7", "fuse"]),
        ({"fuse": False, "layers": [2]}, ["layer 2 keeps 0.7", "drop"]),
        ({"from_epoch": 4, "until_epoch": 4}, ["from epoch 5 on"]),
        ({"from_epoch": 4, "until_epoch": 7}, ["all until epoch 4", "a cosine until epoch 7"]),
    ],
)
def test_the_section_in_words(settings: dict[str, Any], parts: list[str]) -> None:
    pruning = pruned(**settings).pruning
    assert pruning is not None
    assert all(part in pruning.describe(None) for part in parts), pruning.describe(None)


def test_a_compiled_run_has_a_few_rates() -> None:
    values = {"model": {"name": "vit_tiny_patch4_32"}, "pruning": {}}
    compiled = recipe_from(values | {"training": {"epochs": 3, "compile": True}})
    assert compiled.pruning_levels == 4
    assert recipe_from(values | {"training": {"epochs": 3}}).pruning_levels is None
