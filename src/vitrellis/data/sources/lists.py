"""Images named in text files: a path below the root, a space and the class number on each line.

The form of ImageNet-LT and Places-LT (Liu et al., CVPR 2019, https://arxiv.org/abs/1904.05160), of
iNaturalist-2018 as used in papers on long tails, and of DomainNet (`domainnet.py`). Class numbers
are used as they are. The existence of files is checked, but they are opened only when their pixels
are needed; images have three channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch

from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles
from vitrellis.data.sources.names_in_files import check_class_numbers, class_names_in
from vitrellis.errors import UsageError, VitrellisError

_LINE = "a path, a space and a class number"
_Rows = list[tuple[str, int]]


def load_lists(
    root: Path | None,
    channels: int | None = None,
    *,
    lists: str | None = None,
    domain: str | None = None,
) -> Source:
    """Any images that text files name: `train.txt`, and `val.txt` and `test.txt` if there are.

    Classes have the names in `classes.txt`, one a line; else the names of their folders, if each
    has a folder of its own; else their numbers.

    Args:
        root: The folder that paths begin at.
        channels: 1 to make the images grey; None or 3 for colour.
        lists: The folder of the text files, if it is not `root`.
        domain: The files are called `<domain>_train.txt` and so on, as DomainNet's.

    Raises:
        VitrellisError: If a text file is missing or damaged, or an image is missing.
    """
    prefix = "" if domain is None else f"{domain}_"
    files = {split: f"{prefix}{split}.txt" for split in ("train", "val", "test")}
    return _load("lists", root, channels, lists, files, optional=("val", "test"))


def load_imagenet_lt(
    root: Path | None, channels: int | None = None, *, lists: str | None = None
) -> Source:
    """ImageNet-LT: 1,000 classes of 1,280 to 5 images; its test images are ImageNet's val.

    Args:
        root: ImageNet's folder: `train/n01440764/*.JPEG`, and `val/` sorted into such folders.
        channels: 1 to make the images grey; None or 3 for colour.
        lists: The folder of `ImageNet_LT_train.txt`, `_val.txt` and `_test.txt`, if not `root`.

    Raises:
        VitrellisError: If a text file is missing or damaged, or an image is missing.
    """
    files = {split: f"ImageNet_LT_{split}.txt" for split in ("train", "val", "test")}
    return _load("imagenet-lt", root, channels, lists, files)


def load_inaturalist2018(
    root: Path | None, channels: int | None = None, *, lists: str | None = None
) -> Source:
    """iNaturalist-2018 by text lists: 8,142 species. Its validation images are the test split.

    Papers report on them, as the labels of the test images were never published.

    Args:
        root: The folder that holds `train_val2018/`.
        channels: 1 to make the images grey; None or 3 for colour.
        lists: The folder of `iNaturalist18_train.txt` and `iNaturalist18_val.txt`, if not `root`.

    Raises:
        VitrellisError: If a text file is missing or damaged, or an image is missing.
    """
    files = {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"}
    return _load("inaturalist-2018", root, channels, lists, files)


def _load(
    name: str,
    root: Path | None,
    channels: int | None,
    lists: str | None,
    files: Mapping[str, str],
    optional: tuple[str, ...] = (),
) -> Source:
    contents = f"images, and {files['train']} with {_LINE} on each line"
    folder = root_folder(root, name, contents)
    list_folder = folder if lists is None else _list_folder(lists)
    rows_of: dict[str, _Rows] = {}
    for split, file in files.items():
        if split in optional and not (list_folder / file).is_file():
            continue
        rows_of[split] = _read_list(list_folder / file)
    _refuse_repeats(rows_of, files, list_folder)
    labels = [label for rows in rows_of.values() for _, label in rows]
    check_class_numbers(labels, list_folder / files["train"])
    class_names = _class_names(rows_of["train"], list_folder / "classes.txt")
    splits = {
        split: Split(
            ImageFiles.unopened(
                folder,
                [path for path, _ in rows],
                channels or 3,
                named_in=list_folder / files[split],
            ),
            torch.tensor([label for _, label in rows], dtype=torch.int64),
        )
        for split, rows in rows_of.items()
    }
    return Source(
        name, class_names, splits["train"], splits.get("val"), splits.get("test")
    ).checked()


def _list_folder(lists: str) -> Path:
    folder = Path(str(lists)).expanduser()
    if not folder.is_dir():
        raise UsageError(f"data.args.lists: no such folder: {folder}")
    return folder


def _read_list(file: Path) -> _Rows:
    """Path and class number of each line; a path may have spaces in it."""
    if not file.is_file():
        raise VitrellisError(f"{file}: no such file. It should have {_LINE} on each line")
    rows = []
    for number, line in enumerate(file.read_text(errors="surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal():
            raise VitrellisError(f"{file}: line {number} is {line!r}; expected {_LINE}")
        rows.append((path.rstrip(), int(label)))
    if not rows:
        raise VitrellisError(f"{file}: names no images; expected {_LINE} on each line")
    return rows


def _refuse_repeats(rows_of: Mapping[str, _Rows], files: Mapping[str, str], folder: Path) -> None:
    """An image may be listed once: in two splits it would be trained on and tested on."""
    first: dict[str, str] = {}
    for split, rows in rows_of.items():
        for path, _ in rows:
            if path in first:
                where = {files[first[path]], files[split]}
                twice = "twice" if len(where) == 1 else "too"
                raise VitrellisError(
                    f"{folder / files[split]}: names {path}, which is in {files[first[path]]} "
                    f"{twice}; each image belongs to one split, once"
                )
            first[path] = split


def _class_names(rows: _Rows, names_file: Path) -> tuple[str, ...]:
    labels = {label for _, label in rows}
    if 0 not in labels and 1 in labels:
        raise VitrellisError(
            f"{names_file.parent}: the class numbers of training images begin at 1, and should "
            "begin at 0"
        )
    if names_file.is_file():
        return class_names_in(names_file.read_text(errors="replace"), max(labels), names_file)
    folders: dict[int, set[str]] = {}
    for path, label in rows:
        folders.setdefault(label, set()).add(PurePosixPath(path).parent.name)
    folder_names = [folders.get(label, {str(label)}) for label in range(max(labels) + 1)]
    single = [next(iter(names)) for names in folder_names if len(names) == 1]
    if len(set(single)) == len(folder_names) and "" not in single:
        return tuple(single)
    return tuple(str(label) for label in range(len(folder_names)))


LAYOUTS = {
    "lists": load_lists,
    "imagenet-lt": load_imagenet_lt,
    "inaturalist-2018": load_inaturalist2018,
}
RECOGNIZED_BY = {
    "imagenet-lt": lambda root: (root / "ImageNet_LT_train.txt").is_file(),
    "inaturalist-2018": lambda root: (root / "iNaturalist18_train.txt").is_file(),
    "lists": lambda root: (root / "train.txt").is_file(),
}
