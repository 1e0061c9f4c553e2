"""The section on what training starts from, and the keys that were in `model` before."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, describe, load_recipe, recipe_from

BASE = {"model": {"name": "deit_tiny_patch16_224"}, "training": {"epochs": 2}}


def recipe(*changes: str) -> Recipe:
    return recipe_from(BASE, changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.pretrained=true", "init.pretrained=true"),
        ("model.weights=w.pt", "init.weights=w.pt"),
    ],
)
def test_keys_that_were_in_model_move(old: str, new: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert recipe(old) == recipe(new)
    names = [text.partition("=")[0] for text in (old, new)]
    assert caplog.messages == [f"note: {names[0]} is now called {names[1]}"]


def test_the_recipe_of_an_earlier_run_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has all keys, those that were not given too, about which there is nothing to say."""
    file = tmp_path / "recipe.yaml"
    old = "\n  pretrained: false\n  weights: null\n  weights_img_size: null\n  weights_ema: false\n"
    text = describe(recipe()).replace("\n  zero_head: false\n", f"{old}  zero_head: false\n")
    start, _, rest = text.partition("init:\n")
    file.write_text(start + rest[rest.index("teacher:") :])
    with caplog.at_level(logging.WARNING):
        assert load_recipe(file) == recipe()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("value", "expected"), [("body", "body"), ("3", 3), ("[blocks.0, norm]", ("blocks.0", "norm"))]
)
def test_what_is_frozen_is_a_word_a_number_or_names(value: str, expected: object) -> None:
    frozen = recipe(f"init.freeze={value}")
    assert frozen.init.freeze == expected
    assert recipe_from(frozen.model_dump(mode="json")).init.freeze == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["init.freeze=head"], "init.freeze: 'head' is not possible here; it must be 'body', or a"),
        (["init.freeze=0"], "init.freeze: 0 is too small; it must be at least 1"),
        (["init.freeze=[]"], "init.freeze: [] has too few values"),
        (["init.source=evit"], "init: source: goes with weights, and none are given"),
        (["init.weights=w", "init.pretrained=true"], "weights and pretrained: give one of them"),
        (["optimizer.layer_decay=1.5"], "optimizer.layer_decay: 1.5 is too large"),
        (["optimizer.layer_decay=0"], "optimizer.layer_decay: 0 is too small"),
    ],
)
def test_mistakes(changes: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(*changes)
    assert message in str(caught.value)
