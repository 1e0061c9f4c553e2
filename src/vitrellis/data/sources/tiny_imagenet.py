"""Tiny ImageNet: 200 classes of 500 training and 50 validation images, 64 pixels.

http://cs231n.stanford.edu/tiny-imagenet-200.zip. The labels of its test images were never
published, so its validation images are the test split here, as in papers; a validation split is cut
from the training images (`data.val_fraction`). A class's index is the place of its WordNet number
in sorted order, its name the first that `words.txt` gives.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles, is_image, path_below, visible
from vitrellis.data.sources.names_in_files import synset_names
from vitrellis.errors import VitrellisError

_CONTENTS = "wnids.txt, words.txt, train/ and val/ with val_annotations.txt"
_SIDE = 64


def load_tiny_imagenet(root: Path | None, channels: int | None = None) -> Source:
    """Tiny ImageNet, tested on its validation images.

    Args:
        root: `tiny-imagenet-200`, or the folder that holds it.
        channels: 1 to make the images grey; None or 3 for colour (some are grey).

    Raises:
        VitrellisError: If a file is missing or damaged.
    """
    folder = _find_folder(root)
    wnids = sorted(_lines(folder / "wnids.txt"))
    index = {wnid: number for number, wnid in enumerate(wnids)}
    listed = [(f"train/{w}/images/{name}", w) for w in wnids for name in _training(folder, w)]
    train, test = (
        Split(
            ImageFiles.unopened(
                folder,
                [path for path, _ in rows],
                channels or 3,
                size=(_SIDE, _SIDE),
                named_in=folder / "val" / "val_annotations.txt",
            ),
            torch.tensor([index[wnid] for _, wnid in rows], dtype=torch.int64),
        )
        for rows in (listed, _annotated(folder, index))
    )
    names = _class_names(folder / "words.txt", wnids)
    return Source("tiny-imagenet", names, train, None, test).checked()


def _find_folder(root: Path | None) -> Path:
    parent = root_folder(root, "tiny-imagenet", _CONTENTS)
    for folder in (parent, parent / "tiny-imagenet-200"):
        if (folder / "wnids.txt").is_file():
            return folder
    raise VitrellisError(f"data.root: {parent} has no wnids.txt. It should hold {_CONTENTS}")


def _training(folder: Path, wnid: str) -> list[str]:
    images = folder / "train" / path_below(folder, wnid, folder / "wnids.txt") / "images"
    return [path.name for path in visible(images) if is_image(path)]


def _annotated(folder: Path, index: dict[str, int]) -> list[tuple[str, str]]:
    """Path and WordNet number of each validation image."""
    file = folder / "val" / "val_annotations.txt"
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        words = line.split("\t")
        if len(words) < 2 or words[1] not in index:
            raise VitrellisError(
                f"{file}: line {number} is {line!r}; expected a file, a tab and a WordNet number "
                "of wnids.txt"
            )
        rows.append((f"val/images/{words[0]}", words[1]))
    return rows


def _class_names(words: Path, wnids: list[str]) -> tuple[str, ...]:
    meanings = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
    return synset_names(meanings, wnids)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise VitrellisError(f"{file}: no such file. The folder should hold {_CONTENTS}")
    return [line for line in file.read_text(errors="replace").splitlines() if line.strip()]


LAYOUTS = {"tiny-imagenet": load_tiny_imagenet}
RECOGNIZED_BY = {
    "tiny-imagenet": lambda root: any(
        (folder / "wnids.txt").is_file() for folder in (root, root / "tiny-imagenet-200")
    )
}
