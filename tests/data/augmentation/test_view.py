"""Augmentations are declared once: the keys, what they do, and their words in the summary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vitrellis
from vitrellis.data.augmentation.crops import CropKeys
from vitrellis.data.augmentation.view import AUGMENTATIONS, View

NEW_FILE = '''
from torch import Tensor

from vitrellis.data.augmentation.steps import AugmentationKeys, PixelStep, Step, amount
from vitrellis.data.randomness import uniform
from vitrellis.settings import Fraction


class NegativeKeys(AugmentationKeys):
    """The key of negatives."""

    negative: Fraction = 0.0
    """How often light and dark are exchanged."""

    def step(self) -> Step | None:
        return Negative(self.negative) if self.negative > 0 else None

    def words(self) -> list[str]:
        return amount("negative", self.negative)


class Negative(PixelStep):
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def apply(self, images: Tensor, keys: Tensor, fill: Tensor) -> None:
        rows = (uniform(keys, "negative", 1).squeeze(1) < self.probability).nonzero().flatten()
        images[rows] = 255 - images[rows]

    def matrices(self, keys: Tensor, size: tuple[int, int]) -> None:
        return None
'''
SCRIPT = """
import sys, torch, vitrellis
from vitrellis.cli.main import main
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.randomness import sample_keys
from vitrellis.errors import UsageError
from vitrellis.recipe import recipe_from

print(vitrellis.__file__)
words = ["augmentation.negative=1", "augmentation.crop=none", "augmentation.flip=0"]
minimal = {"model": {"name": "cifar_resnet8"}, "training": {"epochs": 1}}
view = recipe_from(minimal, words).augmentation
print(view.summary())
shades = torch.arange(250, dtype=torch.uint8).view(10, 1, 5, 5)
transform = TrainTransform(view, size=(5, 5), mean=[0.0], std=[1.0])
out = transform(shades, sample_keys(0, 0, torch.arange(10)))
print(torch.equal((out * 255).round(), 255.0 - shades))
try:
    recipe_from(minimal, ["augmentation.negative=2"])
except UsageError as error:
    print(error)
sys.argv = ["vitrellis", "recipes", "keys", "augmentation"]
main()
"""


def test_a_new_augmentation_is_one_file_and_one_export(tmp_path: Path) -> None:
    package = tmp_path / "vitrellis"
    shutil.copytree(Path(vitrellis.__file__).parent, package)
    folder = package / "data" / "augmentation"
    (folder / "negative.py").write_text(NEW_FILE)
    view = folder / "view.py"
    exported = "from vitrellis.data.augmentation.negative import NegativeKeys\n\n\nclass View(\n"
    view.write_text(view.read_text().replace("\n\nclass View(\n", f"{exported}    NegativeKeys,\n"))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    path, summary, is_applied, error, *table = ended.stdout.splitlines()
    assert path == str(package / "__init__.py")
    assert summary == "whole images, negative 1"
    assert is_applied == "True"
    assert "augmentation.negative" in error
    (row,) = [line for line in table if "augmentation.negative" in line]
    assert "How often light and dark are exchanged." in row


def test_views_are_described_by_what_is_on() -> None:
    assert View(flip=0).describe() == ["crops of 0.08 to 1 of the area"]
    view = View(crop="padded", auto_augment="svhn", color_jitter=(0.4, 0, 0, 0), cutout=8)
    words = ["crops padded by 4", "flip 0.5", "AutoAugment of svhn", "colour jitter 1", "Cutout 8"]
    assert view.describe() == words
    assert len(view.steps()) == 3
    assert View(crop="none", erasing=0.25).describe() == [
        "whole images",
        "flip 0.5",
        "erasing 0.25",
    ]


def test_every_key_belongs_to_one_augmentation() -> None:
    keys = [*CropKeys.model_fields, *(key for part in AUGMENTATIONS for key in part.model_fields)]
    assert sorted(keys) == sorted(set(keys)) == sorted(View.model_fields)
    assert len(AUGMENTATIONS) == len(View.__bases__) - 1


@pytest.mark.parametrize("key", ["scale", "ratio", "blur_sigma"])
def test_a_range_begins_with_its_smaller_number(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        View.model_validate({key: [0.9, 0.1]})
