"""Chaoyang: patches of colon slides in four classes, 4,021 for training and 2,139 for testing.

Zhu et al., "Hard sample aware noise robust learning for histopathology image classification", IEEE
TMI 2021; https://bupt-ai-cz.github.io/HSA-NRL. Training labels are those
of the published file, some of which are wrong, or those of one of the three pathologists; the test
images are those on which the pathologists agreed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vitrellis.data.formats.json_files import read_json, records
from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles
from vitrellis.data.sources.published_counts import differing_counts
from vitrellis.errors import VitrellisError, unknown_name

CLASS_NAMES = ("normal", "serrated", "adenocarcinoma", "adenoma")
"""The classes in the order of the labels, 0 to 3."""

_CONTENTS = "train.json, test.json and the images that they name"


ANNOTATORS = ("A", "B", "C")
"""The three pathologists, whose labels the file of all of them has as `label_A` and so on."""

COUNTS = {"train": 4_021, "test": 2_139}
"""The numbers of images of the published splits."""


def load_chaoyang(
    root: Path | None, channels: int | None = None, *, annotator: str | None = None
) -> Source:
    """Chaoyang with its own two splits.

    Args:
        root: The folder of `train.json` and `test.json`, or the one that holds it.
        channels: 1 to make the images grey; None or 3 for colour.
        annotator: "A", "B" or "C" to train on the labels of this pathologist alone.

    Raises:
        UsageError: If there is no such pathologist.
        VitrellisError: If a file is missing or damaged.
    """
    if annotator is not None and annotator not in ANNOTATORS:
        raise unknown_name("pathologist (data.args.annotator)", str(annotator), ANNOTATORS)
    parent = root_folder(root, "chaoyang", _CONTENTS)
    folders = (parent, parent / "chaoyang", parent / "chaoyang-data")
    folder = next((path for path in folders if (path / "train.json").is_file()), None)
    if folder is None:
        raise VitrellisError(f"data.root: {parent} has no train.json. It should hold {_CONTENTS}")
    key = "label" if annotator is None else f"label_{annotator}"
    train = _read_split(folder, "train.json", channels, key)
    test = _read_split(folder, "test.json", channels, "label")
    notes = differing_counts("Chaoyang", {"train": train, "test": test}, COUNTS)
    return Source("chaoyang", CLASS_NAMES, train, None, test, notes=notes).checked()


def _read_split(folder: Path, name: str, channels: int | None, key: str) -> Split:
    file = folder / name
    rows = records(read_json(file), {"name": str, key: int}, file, "its list of images")
    paths = [row["name"] for row in rows]
    outside = [row[key] for row in rows if not 0 <= row[key] < len(CLASS_NAMES)]
    if outside:
        raise VitrellisError(
            f"{file}: has {key} {outside[0]}; with {len(CLASS_NAMES)} classes labels are 0 to "
            f"{len(CLASS_NAMES) - 1}"
        )
    images = ImageFiles.unopened(folder, paths, channels or 3, named_in=file)
    return Split(images, torch.tensor([row[key] for row in rows], dtype=torch.int64))


LAYOUTS = {"chaoyang": load_chaoyang}
RECOGNIZED_BY = {
    "chaoyang": lambda root: any(
        (folder / "train.json").is_file() and (folder / "test.json").is_file()
        for folder in (root, root / "chaoyang", root / "chaoyang-data")
    )
}
