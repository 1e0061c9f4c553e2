"""Published weights get images as they were trained on; timm says which these are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from timm.data import resolve_data_config

from tests.training.tiny import tiny
from vitrellis import from_tensors
from vitrellis.assembly.build import build_preprocessing
from vitrellis.assembly.pretrained import pretrained_notes
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, describe, load_recipe, recipe_from

NAMES = ["vit_tiny_patch16_224", "resnet18", "convnext_tiny.fb_in22k", "tf_efficientnet_b0.aa_in1k"]


def recipe(name: str, **sections: Any) -> Recipe:
    start = {"model": {"name": name}, "init": {"pretrained": True}}
    return recipe_from({**start, "training": {"epochs": 1}, **sections})


def images(channels: int = 3) -> Source:
    pixels = torch.randint(0, 90, (6, channels, 24, 24), dtype=torch.uint8)
    return from_tensors(pixels, torch.arange(6) % 2)


def theirs(name: str) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    found: dict[str, Any] = resolve_data_config({}, pretrained_cfg=cfg.to_dict())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_models_own_normalisation_is_the_default(name: str, tmp_path: Path) -> None:
    wanted = recipe(name)
    preprocessing = build_preprocessing(wanted, images())
    assert preprocessing.mean == pytest.approx(theirs(name)["mean"])
    assert preprocessing.std == pytest.approx(theirs(name)["std"])
    grey = build_preprocessing(wanted, images(1))
    assert grey.mean == pytest.approx((sum(theirs(name)["mean"]) / 3,))
    file = tmp_path / "recipe.yaml"  # as a run keeps it
    file.write_text(describe(wanted))
    assert load_recipe(file).input == wanted.input


def test_more_channels_are_normalised_as_their_kernels_are_repeated() -> None:
    mean = theirs("resnet18")["mean"]
    assert build_preprocessing(recipe("resnet18"), images(5)).mean == (*mean, *mean[:2])


@pytest.mark.parametrize("name", ["photos-alone", "demo-alone"])
def test_packaged_recipes_follow(name: str) -> None:
    assert load_recipe(name).input.normalization == "measured"
    words = ["model.name=vit_tiny_patch16_224", "init.pretrained=true"]
    assert load_recipe(name, words).input.normalization == "model"
    other = load_recipe(name, [*words, "input.normalization=measured"])
    assert other.input.normalization == "measured"


def test_a_note_says_which_they_are() -> None:
    for settings, words in (
        ({}, "normalised as in pretraining: mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5"),
        ({"normalization": "imagenet"}, "not by those of pretraining (0.5, 0.5, 0.5 and 0.5"),
    ):
        wanted = recipe("vit_tiny_patch16_224", input=settings)
        (note,) = pretrained_notes(wanted, build_preprocessing(wanted, images()))
        assert words in note
    wanted = recipe("vit_tiny_patch16_224", input={"interpolation": "bilinear"})
    notes = pretrained_notes(wanted, build_preprocessing(wanted, images()))
    assert "by bilinear interpolation, in pretraining by bicubic" in notes[1]
    scratch = recipe_from({"model": {"name": "resnet18"}, "training": {"epochs": 1}})
    assert pretrained_notes(scratch, build_preprocessing(scratch, images())) == []


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_teacher_with_published_weights_gets_its_own(tmp_path: Path, pretrained: bool) -> None:
    """The weights themselves are left out here, as they would be downloaded."""
    create = timm.create_model

    def without_download(name: str, pretrained: bool = False, **settings: Any) -> Any:
        return create(name, pretrained=False, **settings)

    with mock.patch.object(timm, "create_model", without_download):
        finished = tiny(
            tmp_path,
            training__epochs=1,
            teacher={"model": "mobilenetv3_small_050", "pretrained": pretrained},
            objective={"kd": {"weight": 1.0}},
        )
    config = json.loads((finished.run.path / "teacher" / "config.json").read_text())
    own = theirs("mobilenetv3_small_050")["mean"]
    assert (config["pretrained_cfg"]["mean"] == pytest.approx(own)) is pretrained


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("init", r"init: weights_ema: goes with weights"),
        ("teacher", r"teacher\.weights_ema: there is no file"),
    ],
)
def test_an_average_of_no_file_is_refused(key: str, message: str) -> None:
    sections: dict[str, dict[str, Any]] = {
        "init": {"model": {"name": "resnet18"}, "init": {"weights_ema": True}},
        "teacher": {
            "model": {"name": "resnet18"},
            "teacher": {"model": "resnet18", "weights_ema": True},
            "objective": {"kd": {}},
        },
    }
    with pytest.raises(UsageError, match=message):
        recipe_from({"training": {"epochs": 1}, **sections[key]})
