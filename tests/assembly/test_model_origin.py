"""A student from a folder, from another run, and with other channels than its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import save_for_hf

import vitrellis
from tests.training.tiny import tiny
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, read_state_dict
from vitrellis.recipe import recipe_from

HALVES = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}


def test_a_run_is_a_file_of_weights(tmp_path: Path) -> None:
    first = tiny(tmp_path, "first", training__epochs=1)
    still: dict[str, Any] = {"optimizer": {"lr": 1e-12, "weight_decay": 0}, "training__epochs": 1}
    for name, weights in (
        ("run", first.run.path),
        ("folder", first.run.best_model),
        ("checkpoint", first.run.last_checkpoint),
    ):
        again = tiny(tmp_path, name, init={"weights": str(weights)}, **still)
        for key, value in read_state_dict(again.run.last_model).items():
            torch.testing.assert_close(value, read_state_dict(first.run.last_model)[key])


def test_a_model_of_a_folder_is_resumed_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    theirs = create_model("vit_micro_patch7_28", num_classes=7, mlp_ratio=2.0)
    args = {"mlp_ratio": 2.0}
    save_for_hf(theirs, str(folder), model_args=args, model_config={"pretrained_cfg": HALVES})
    start: dict[str, Any] = {"model": {"name": f"local-dir:{folder}"}, "init": {"pretrained": True}}
    finished = tiny(tmp_path, **start, training__epochs=1)
    assert finished.model().architecture == "vit_micro_patch7_28"
    assert finished.model().preprocessing.mean == HALVES["mean"]
    finished.run.results_file.unlink()
    shutil.rmtree(folder)
    assert tiny(tmp_path, **start, training__epochs=1).results.best == finished.results.best
    with pytest.raises(VitrellisError, match="there is no"):
        tiny(tmp_path, "new", **start)
    both = {"pretrained": True, "weights": str(finished.run.path)}
    with pytest.raises(UsageError, match="not both"):
        tiny(tmp_path, "both", init=both)


def test_a_teacher_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    save_for_hf(create_model("cifar_resnet8", num_classes=3), str(folder))
    finished = tiny(
        tmp_path,
        training__epochs=1,
        teacher={"model": f"local-dir:{folder}", "pretrained": True},
        objective={"kd": {"weight": 1.0}},
    )
    kept = read_state_dict(finished.run.teacher_model("teacher"))
    theirs = read_state_dict(folder)
    assert all(torch.equal(value, theirs[name]) for name, value in kept.items())


@pytest.mark.parametrize(("given", "wanted"), [(1, 3), (3, 1)])
def test_images_from_python_get_the_channels_that_the_recipe_asks_for(
    given: int, wanted: int
) -> None:
    images = torch.randint(0, 256, (9, given, 8, 8), dtype=torch.uint8)
    labels = torch.arange(9) % 3
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    values = {"model": {"name": "resnet18"}, "training": {"epochs": 1}}
    recipe = recipe_from(values | {"input": {"channels": wanted}})
    for source in (
        vitrellis.from_tensors(images, labels),
        vitrellis.from_dataset(pairs),  # type: ignore[arg-type]
    ):
        built = build_source(recipe, source)
        assert built.channels == wanted
        assert built.train.images[0].shape == (wanted, 8, 8)
        assert built.val is not None
        assert built.val.images.channels == wanted
        assert built.train.images.fingerprint() != source.train.images.fingerprint()
    five = vitrellis.from_tensors(images[:, :1].expand(-1, 5, -1, -1), labels)
    with pytest.raises(VitrellisError, match=r"input\.channels: .* has 5 channels where"):
        build_source(recipe, five)
