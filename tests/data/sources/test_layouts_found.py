"""A new dataset layout is one file, and nothing else has to name it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import vitrellis
from vitrellis.data.sources import SOURCES
from vitrellis.recipe.image_sections import Data

NEW_LAYOUT = """
import torch

from vitrellis.data.source import Source, Split, TensorImages


def load_stripes(root, channels=None, *, size=8):
    labels = torch.arange(40) % 2
    images = torch.zeros(40, 1, size, size, dtype=torch.uint8)
    images[labels == 0, :, ::2] = 255
    images[labels == 1, :, :, ::2] = 255
    return Source("stripes", ("lying", "standing"), Split(TensorImages(images), labels)).checked()


LAYOUTS = {"stripes": load_stripes}
"""
SCRIPT = """
import sys, vitrellis
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError
from vitrellis.recipe import recipe_from
from vitrellis.recipe.image_sections import Data

print(vitrellis.__file__)
print(load_source("stripes", None, args={"size": 16}).train.images[0].shape)
try:
    load_source("stripes", None, args={"sice": 16})
except UsageError as error:
    print(error)
print(Data.model_fields["source"].description, Data.model_fields["args"].description)
recipe = recipe_from(
    {"model": {"name": "cifar_resnet8"}, "training": {"epochs": 1, "batch_size": 8}},
    ["data.source=stripes", "data.args.size=16", "machine.accelerator=cpu"],
)
vitrellis.train(recipe, out=sys.argv[1])
"""


def test_a_new_layout_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "vitrellis"
    shutil.copytree(Path(vitrellis.__file__).parent, package)
    (package / "data" / "sources" / "stripes.py").write_text(NEW_LAYOUT)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    path, shape, error, explanation, *_ = ended.stdout.splitlines()
    assert path == str(package / "__init__.py")
    assert shape == "torch.Size([1, 16, 16])"
    assert "'sice'. Did you mean 'size'?" in error
    assert "stripes" in explanation
    assert "stripes: `size`" in explanation
    assert (tmp_path / "run" / "results.json").is_file()


def test_the_help_and_the_docs_name_every_source() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data-sets.md").read_text()
    for name in SOURCES:
        assert name in str(Data.model_fields["source"].description)
        assert f"`{name}`" in page
    arguments = str(Data.model_fields["args"].description)
    assert "elpv: `classes`" in arguments
    assert "inaturalist: `level`, `year`" in arguments
