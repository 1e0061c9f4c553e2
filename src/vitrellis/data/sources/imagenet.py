"""ImageNet-1k, and sets laid out like it: `train/` and `val/`, each with a folder for each class.

Its test labels were never published, so papers report figures on `val/`: it is the test split, and
a validation split is cut from the training images. Files are opened only when they are needed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles, is_image, list_images, visible
from vitrellis.data.sources.names_in_files import synset_names
from vitrellis.data.sources.published_counts import differing_counts
from vitrellis.errors import UsageError, VitrellisError

COUNTS = {"train": 1_281_167, "test": 50_000}
"""The numbers of images of ImageNet-1k (ILSVRC 2012)."""

_CLASSES = 1000
_CONTENTS = "train/ and val/, each with a folder of images for each class"
_SYNSETS = "LOC_synset_mapping.txt"


def load_imagenet(
    root: Path | None, channels: int | None = None, *, val_is: str = "test"
) -> Source:
    """ImageNet in class folders.

    Classes have the first name of `LOC_synset_mapping.txt`, if it lies beside `train/`, and else
    the names of their folders.

    Args:
        root: The folder that holds `train/` and `val/`.
        channels: 1 to make the images grey; None or 3 for colour.
        val_is: "test" to report figures on `val/`, as papers do; "val" to choose by it.

    Raises:
        UsageError: If `val_is` has another value.
        VitrellisError: If a folder is missing or laid out otherwise.
    """
    if val_is not in ("test", "val"):
        raise UsageError(f"data.args.val_is: is {val_is!r}; test or val is meant")
    folder = root_folder(root, "imagenet", _CONTENTS)
    folders = [entry.name for entry in _class_folders(folder / "train")]
    train = _split(folder, "train", folders, channels)
    held_out = _split(folder, "val", folders, channels)
    val, test = (held_out, None) if val_is == "val" else (None, held_out)
    notes: tuple[str, ...] = ()
    if len(folders) == _CLASSES:
        counted = {"train": train, "test": held_out}
        notes = differing_counts("ImageNet-1k", counted, COUNTS)
    names = _class_names(folder / _SYNSETS, folders)
    return Source("imagenet", names, train, val, test, notes=notes).checked()


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise VitrellisError(f"{folder}: no such folder. data.root should hold {_CONTENTS}")
    entries = visible(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    files = sum(is_image(entry) for entry in entries if not entry.is_dir())
    if not folders:
        flat = f"holds {files:,} images and no folders" if files else "holds no folders"
        raise VitrellisError(
            f"{folder}: {flat}; sort its images into a folder for each class, as train/ has them"
        )
    return folders


def _split(root: Path, name: str, classes: list[str], channels: int | None) -> Split:
    index = {folder: number for number, folder in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for folder in _class_folders(root / name):
        if folder.name not in index:
            raise VitrellisError(f"{folder}: there is no folder of this name in {root / 'train'}")
        images = [path.relative_to(root).as_posix() for path in list_images(folder).images]
        paths += images
        labels += [index[folder.name]] * len(images)
    images_of_split = ImageFiles.unopened(root, paths, channels or 3, named_in=root / name)
    return Split(images_of_split, torch.tensor(labels, dtype=torch.int64))


def _class_names(file: Path, folders: list[str]) -> tuple[str, ...]:
    if not file.is_file():
        return tuple(folders)
    lines = file.read_text(errors="replace").splitlines()
    return synset_names(dict(line.split(" ", 1) for line in lines if " " in line), folders)


LAYOUTS = {"imagenet": load_imagenet}
RECOGNIZED_BY = {"imagenet": lambda root: (root / _SYNSETS).is_file()}
