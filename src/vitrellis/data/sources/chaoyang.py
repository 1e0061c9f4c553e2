"""Chaoyang: patches of colon slides in four classes, 4,021 for training and 2,139 for testing.

Zhu et al., "Hard sample aware noise robust learning for histopathology image classification", IEEE
TMI 2021; https://bupt-ai-cz.github.io/HSA-NRL. Training labels are those
of the published file, some of which are wrong (the three pathologists' labels are not used); the
test images are those on which the pathologists agreed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vitrellis.data.formats.json_files import read_json, records
from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import VitrellisError

CLASS_NAMES = ("normal", "serrated", "adenocarcinoma", "adenoma")
"""The classes in the order of the labels, 0 to 3."""

_CONTENTS = "train.json, test.json and the images that they name"


def load_chaoyang(root: Path | None, channels: int | None = None) -> Source:
    """Chaoyang with its own two splits.

    Args:
        root: The folder of `train.json` and `test.json`, or the one that holds it.
        channels: 1 to make the images grey; None or 3 for colour.

    Raises:
        VitrellisError: If a file is missing or damaged.
    """
    parent = root_folder(root, "chaoyang", _CONTENTS)
    folders = (parent, parent / "chaoyang", parent / "chaoyang-data")
    folder = next((path for path in folders if (path / "train.json").is_file()), None)
    if folder is None:
        raise VitrellisError(f"data.root: {parent} has no train.json. It should hold {_CONTENTS}")
    train, test = (_read_split(folder, name, channels) for name in ("train.json", "test.json"))
    return Source("chaoyang", CLASS_NAMES, train, None, test).checked()


def _read_split(folder: Path, name: str, channels: int | None) -> Split:
    file = folder / name
    rows = records(read_json(file), {"name": str, "label": int}, file, "its list of images")
    images = ImageFiles.unopened(folder, [row["name"] for row in rows], channels or 3)
    return Split(images, torch.tensor([row["label"] for row in rows], dtype=torch.int64))


LAYOUTS = {"chaoyang": load_chaoyang}
