"""Images in folders named after their classes.

Either `ROOT/CLASS/*.jpg`, or `ROOT/train/CLASS/*.jpg` with `val` (or `valid`, `validation`, `dev`)
and `test` beside `train`, both optional. Folders inside a class folder belong to it. Classes are
numbered in the order of their names' Unicode characters (so `10` comes before `2`), as
torchvision's ImageFolder does; names are compared in their composed form (NFC), because systems
store accents differently.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import torch

from vitrellis.data.source import Source, root_folder
from vitrellis.data.sources.decoding import IMAGE_SUFFIXES
from vitrellis.data.sources.files import (
    Listing,
    file_splits,
    is_image,
    list_images,
    visible,
)
from vitrellis.data.sources.names_in_files import SPLIT_WORDS
from vitrellis.errors import UsageError, VitrellisError

_SPLITS = {word: SPLIT_WORDS[word] for word in SPLIT_WORDS.keys() - {"training", "testing"}}
_CONTENTS = (
    "one folder of images per class, or train/ (with val/ and test/ if you have them) "
    "that holds such folders"
)
_KNOWN_COPIES: dict[tuple[int, ...], str] = {
    (102, 6552, 818, 819): "these look like Flowers-102 in a split of Kaggle (6,552 train, 818 val "
    "and 819 test images); published figures are of the official split, which trains on 2,040 or "
    "1,020 images and tests on 6,149: they do not compare",
}
"""Notes on copies in class folders, by their numbers of classes and of images of each split."""
_Classes = dict[str, Listing]


def load_folder(root: Path | None, channels: int | None = None, *, val_is: str = "val") -> Source:
    """Images in class folders; pixels are read when they are needed.

    Args:
        root: The folder.
        channels: 1 or 3 to make all images grey or colour; None chooses grey if all are.
        val_is: "test" if the images in `val/` are those that figures are reported on, and there is
            no `test/`; a validation split is then cut from the training images.

    Raises:
        UsageError: If `val_is` has another value, or `val/` cannot be the test split.
        VitrellisError: If the folders are laid out otherwise, a class has no training image, or a
            file that is named like an image is none.
    """
    if val_is not in ("val", "test"):
        raise UsageError(f"data.args.val_is: is {val_is!r}; val or test is meant")
    folder = root_folder(root, "folder", _CONTENTS)
    split_folders = _split_folders(folder)
    if val_is == "test":
        split_folders = _val_as_test(split_folders, folder)
    classes_of = {split: _classes(path, split) for split, path in split_folders.items()}
    _check_training_classes(classes_of["train"], split_folders["train"], folder)
    for split, classes in classes_of.items():
        _check_against(classes_of["train"], classes, split_folders[split])
    class_names = tuple(classes_of["train"])
    paths = {split: _paths(classes) for split, classes in classes_of.items()}
    labels = {split: _labels(classes, class_names) for split, classes in classes_of.items()}
    splits = file_splits(folder, paths, labels, channels)
    return Source(
        name="folder",
        class_names=class_names,
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        notes=_notes(classes_of),
    ).checked()


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split's class folders; only `train` if there are no splits."""
    folders = [entry for entry in visible(root) if entry.is_dir()]
    named = [folder for folder in folders if folder.name.lower() in _SPLITS]
    others = [folder for folder in folders if folder not in named]
    train = next((folder for folder in named if folder.name.lower() == "train"), None)
    if train is not None and any(entry.is_dir() for entry in visible(train)):
        return _named_splits(root, named, others)
    if folders and all(folder.name.lower() in SPLIT_WORDS for folder in folders):
        _refuse_splits(root, folders, train)
    return {"train": root}


def _named_splits(root: Path, named: list[Path], others: list[Path]) -> dict[str, Path]:
    strange = next((folder for folder in others if list_images(folder).images), None)
    if strange is not None:
        raise VitrellisError(
            f"{root}: holds train/ with class folders, and images in {strange.name}/ too. "
            "Beside train/ there may be val/ (or valid/, validation/, dev/) and test/; "
            f"move {strange.name}/ away"
        )
    splits: dict[str, Path] = {}
    for folder in named:
        split = _SPLITS[folder.name.lower()]
        if split in splits:
            raise VitrellisError(
                f"{root}: holds both {splits[split].name}/ and {folder.name}/, "
                f"and only one can be the {split} split; move one away"
            )
        splits[split] = folder
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _val_as_test(split_folders: dict[str, Path], root: Path) -> dict[str, Path]:
    if "val" not in split_folders or "test" in split_folders:
        holds = ", ".join(f"{path.name}/" for path in split_folders.values())
        raise UsageError(
            f"data.args.val_is=test: needs val/ and no test/ beside train/; {root} has {holds}"
        )
    return {"train": split_folders["train"], "test": split_folders["val"]}


def _refuse_splits(root: Path, folders: list[Path], train: Path | None) -> None:
    names = ", ".join(f"{folder.name}/" for folder in folders)
    if train is None:
        raise VitrellisError(
            f"{root}: holds {names}, which look like splits, but no train/. "
            "Splits are called train, val (or valid, validation, dev) and test"
        )
    raise VitrellisError(
        f"{train}: holds no class folders. Put its images into one folder per class: "
        f"{train.name}/CLASS/image.jpg"
    )


def _classes(folder: Path, split: str) -> _Classes:
    """The files of each class folder in `folder`, by class name, in the order of the names."""
    entries = visible(folder)
    stray = [entry for entry in entries if not entry.is_dir() and is_image(entry)]
    class_folders = [entry for entry in entries if entry.is_dir()]
    contents = _CONTENTS
    if split != "train":
        contents = "one folder of images per class; if there is no such split, move it away"
    if stray:
        raise VitrellisError(
            f"{folder}: images lie directly in it ({len(stray)}, the first is {stray[0].name}), "
            f"so their class is not known. It should hold {contents}"
        )
    if not class_folders:
        raise VitrellisError(f"{folder}: holds no folders. It should hold {contents}")
    classes: _Classes = {}
    for class_folder in class_folders:
        name = unicodedata.normalize("NFC", class_folder.name)
        if name in classes:
            raise VitrellisError(f"{folder}: holds two folders named {name!r}; merge them")
        classes[name] = list_images(class_folder)
    return dict(sorted(classes.items()))


def _check_training_classes(classes: _Classes, folder: Path, root: Path) -> None:
    if len(classes) == 1:
        _refuse_single(folder, root)
    empty = [name for name, listing in classes.items() if not listing.images]
    if not empty:
        return
    others = len(classes[empty[0]].others)
    holds = f"holds no image among its files ({others})" if others else "is an empty folder"
    more = f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""
    raise VitrellisError(
        f"{folder}: class {empty[0]!r} {holds}{more}. Add at least one image, or remove the "
        f"folder. Names of images end with {', '.join(sorted(IMAGE_SUFFIXES))}"
    )


def _refuse_single(folder: Path, root: Path) -> None:
    only = next(entry for entry in visible(folder) if entry.is_dir())
    inner = [entry.name for entry in visible(only) if entry.is_dir()]
    if not inner:
        raise VitrellisError(
            f"{folder}: holds a single class, {only.name!r}; at least two folders are needed"
        )
    names = ", ".join(inner[:3]) + (", ..." if len(inner) > 3 else "")
    remedy = f"set data.root={only}" if folder == root else f"move them up into {folder}"
    raise VitrellisError(
        f"{folder}: holds a single folder, {only.name}/, which holds {names}. "
        f"If those are what you mean, {remedy}"
    )


def _check_against(train: _Classes, classes: _Classes, folder: Path) -> None:
    unknown = next((name for name in classes if name not in train), None)
    if unknown is not None:
        raise VitrellisError(
            f"{folder}: has class {unknown!r}, of which the training split has no folder. "
            f"Its classes are {', '.join(train)}"
        )
    if not any(listing.images for listing in classes.values()):
        raise VitrellisError(f"{folder}: has no images in its class folders; fill or remove it")


def _paths(classes: _Classes) -> list[Path]:
    return [path for listing in classes.values() for path in listing.images]


def _labels(classes: _Classes, class_names: tuple[str, ...]) -> torch.Tensor:
    index = {name: number for number, name in enumerate(class_names)}
    labels = [index[name] for name, listing in classes.items() for _ in listing.images]
    return torch.tensor(labels, dtype=torch.int64)


def _notes(classes_of: dict[str, _Classes]) -> tuple[str, ...]:
    counts = [sum(len(files.images) for files in c.values()) for c in classes_of.values()]
    copy = _KNOWN_COPIES.get((len(classes_of["train"]), *counts))
    return ((copy,) if copy else ()) + _left_out(classes_of)


def _left_out(classes_of: dict[str, _Classes]) -> tuple[str, ...]:
    others = [p for c in classes_of.values() for listing in c.values() for p in listing.others]
    if not others:
        return ()
    return (f"files that are not images were left out: {len(others)}, the first is {others[0]}",)


LAYOUTS = {"folder": load_folder}
