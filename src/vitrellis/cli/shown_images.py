"""The images that the pictures of `vitrellis show` are of: files, folders, or those of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vitrellis.assembly.build import device_of
from vitrellis.assembly.images_of_run import images_of_run
from vitrellis.cli.console import error_console
from vitrellis.cli.evaluate import check_images, choose_split
from vitrellis.cli.image_files import image_files
from vitrellis.data.sources import Split, read_image
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.runs.directory import RunDirectory, find_run
from vitrellis.runs.exported import Trained, load_exported


@dataclass(frozen=True)
class ImagesToShow:
    """A model, and a few images to show with it.

    Attributes:
        trained: The model.
        images: uint8 `(C, H, W)` each.
        names: The label of each in a picture: its file, or its class.
    """

    trained: Trained
    images: list[Tensor]
    names: list[str]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes, which are read one by one.

    Attributes:
        read: Image by number, uint8 `(C, H, W)`.
        names: The name of each: its path, or its number.
        labels: `(N,)` int64.
        what: The images in words.
    """

    read: Callable[[int], Tensor]
    names: list[str]
    labels: Tensor
    what: str


def images_to_show(
    path: Path,
    words: list[str] | None,
    split: str | None,
    count: int,
    weights: Literal["best", "last"],
    root: Path | None,
    device: str = "auto",
) -> ImagesToShow:
    """The model of a run, with the images that the words name, or some of its own.

    Args:
        path: The run.
        words: Files and folders; None for the images of the run.
        split: The name of the run's split; by default test, or else val.
        count: The largest number of images.
        weights: The best or the last epoch.
        root: The folder of the run's images, if they were moved.
        device: Where the model is run; "auto" is a GPU if there is one.

    Raises:
        UsageError: If files are given beside a split, or there is no such device.
        VitrellisError: If the run or an image cannot be read.
    """
    run = find_run(path)
    trained = _model(run, words, split, weights, root, device)
    if words:
        files = image_files(words)
        if len(files) > count:
            error_console.print(
                f"note: the first {count} of {len(files):,} images; --images {len(files)} draws "
                "them all",
                highlight=False,
                soft_wrap=True,
            )
        read = partial(_read, files[:count], trained)
        pixels = [read(number) for number in range(len(files[:count]))]
        return ImagesToShow(trained, pixels, [file.name for file in files[:count]])
    _, images = _own_images(run, split, root, trained)
    picked = one_of_each(images.labels)[:count]
    names = [trained.class_names[int(images.labels[index])] for index in picked]
    return ImagesToShow(trained, [images.images[index] for index in picked], names)


def labelled_images(
    path: Path,
    words: list[str] | None,
    split: str | None,
    weights: Literal["best", "last"],
    root: Path | None,
    device: str = "auto",
) -> tuple[Trained, LabelledImages]:
    """The model of a run, with images whose classes are known; the arguments are as above.

    Raises:
        UsageError: If files are given beside a split, or there is no such device.
        VitrellisError: If the run cannot be read, or a file is in no folder that is named as a
            class.
    """
    run = find_run(path)
    trained = _model(run, words, split, weights, root, device)
    if not words:
        name, images = _own_images(run, split, root, trained)
        names = [images.images.name(number) for number in range(len(images))]
        what = f"{name} images"
        return trained, LabelledImages(images.images.__getitem__, names, images.labels, what)
    files = image_files(words)
    classes = {name: number for number, name in enumerate(trained.class_names)}
    for file in files:
        if file.parent.name not in classes:
            raise VitrellisError(
                f"{file}: its folder, {file.parent.name!r}, is no class of the model, so it is not "
                f"known what would be right. Classes: {', '.join(trained.class_names)}"
            )
    labels = torch.tensor([classes[file.parent.name] for file in files])
    read = partial(_read, files, trained)
    return trained, LabelledImages(read, [str(file) for file in files], labels, "images")


def one_of_each(labels: Tensor) -> list[int]:
    """The numbers of the images: the first of each class, then the second of each, and so on.

    Args:
        labels: `(N,)` int64.
    """
    seen: dict[int, int] = {}
    keys = []
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        keys.append((seen[label], label, index))
    return [index for _, _, index in sorted(keys)]


def _read(files: list[Path], trained: Trained, number: int) -> Tensor:
    seen = trained.preprocessing
    return read_image(files[number], seen.channels, seen.value_range)


def _model(
    run: RunDirectory,
    words: list[str] | None,
    split: str | None,
    weights: Literal["best", "last"],
    root: Path | None,
    device: str,
) -> Trained:
    place = device_of(device)
    if words and (split or root):
        raise UsageError("give images, or --split and --root for those of the run, not both")
    trained = load_exported(run.model_folder(weights, without_ema=False))
    for note in trained.notes:
        error_console.print(f"note: {note}", markup=False, soft_wrap=True)
    trained.model.to(place)
    return trained


def _own_images(
    run: RunDirectory, split: str | None, root: Path | None, trained: Trained
) -> tuple[str, Split]:
    _, source = images_of_run(run, root)
    check_images(source, trained.class_names, run)
    return choose_split(source, split, run)
