"""Sources made from Python objects: tensors, or a torch `Dataset`."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vitrellis.data.channels import common_channels, to_channels
from vitrellis.data.source import Images, Source, Split, TensorImages
from vitrellis.data.sources.decoding import image_pixels
from vitrellis.errors import UsageError, VitrellisError


def from_tensors(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str] | None = None,
    *,
    val: tuple[Tensor, Tensor] | None = None,
    test: tuple[Tensor, Tensor] | None = None,
) -> Source:
    """A source of images in memory.

    Args:
        images: `(N, C, H, W)`; uint8, or floating point in [0, 1], which is rounded to 8 bits.
        labels: `(N,)` whole numbers from 0.
        class_names: One per class; the numbers themselves if None.
        val: Images and labels on which settings and checkpoints are selected.
        test: Images and labels on which figures are reported.

    Raises:
        UsageError: If arguments are no tensors, or class names no texts.
        VitrellisError: If shapes, types or values are otherwise, or a class has no training image.
    """
    pairs = {"train": (images, labels), "val": val, "test": test}
    splits: dict[str, Split] = {}
    for name, pair in pairs.items():
        if pair is not None:
            pixels, numbers = _two_tensors(pair, name)
            pixels = _eight_bits(pixels, f"{name} images").cpu()
            if len(pixels) and not pixels.numel():
                raise VitrellisError(
                    f"{name} images: have no pixels: their shape is {tuple(pixels.shape)}"
                )
            splits[name] = Split(TensorImages(pixels), _whole_numbers(numbers, name))
    return _source("tensors", splits, class_names)


def from_dataset(
    dataset: Dataset[Any],
    class_names: Sequence[str] | None = None,
    *,
    val: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
) -> Source:
    """A source of images that a torch `Dataset` yields.

    Every dataset is read once now, for labels and sizes, and its images are read again when they
    are needed. So it must yield the same each time, without random augmentation: Vitrellis
    augments.

    Args:
        dataset: Yields `(image, label)`: a Pillow image, or a tensor `(C, H, W)` of uint8 or of
            floating point in [0, 1]; and a whole number from 0.
        class_names: One per class; the numbers themselves if None.
        val: The dataset on which settings and checkpoints are selected.
        test: The dataset on which figures are reported.

    Raises:
        VitrellisError: If it yields anything else, or a class has no training image.
    """
    datasets: dict[str, Any] = {"train": dataset, "val": val, "test": test}
    for name, each in datasets.items():
        if not hasattr(each, "__getitem__") and (each is not None or name == "train"):
            raise UsageError(
                f"the {name} dataset is a {type(each).__name__}; give a torch.utils.data.Dataset"
            )
    surveys = {name: _survey(each, name) for name, each in datasets.items() if each is not None}
    examples: dict[int, str] = {}
    for survey in surveys.values():
        examples = {**survey.channels, **examples}
    channels = common_channels(examples)
    splits: dict[str, Split] = {}
    for name, survey in surveys.items():
        size = next(iter(survey.sizes)) if len(survey.sizes) == 1 else None
        images: Images = _DatasetImages(survey.dataset, name, channels, size, survey.digest)
        splits[name] = Split(images, torch.tensor(survey.labels, dtype=torch.int64))
    return _source("dataset", splits, class_names)


def _source(name: str, splits: dict[str, Split], class_names: Sequence[str] | None) -> Source:
    if class_names is not None and not _are_texts(class_names):
        raise UsageError(f"class_names: {class_names!r:.60} should be a list of texts")
    highest = max((int(s.labels.max()) for s in splits.values() if len(s)), default=0)
    names = [str(number) for number in range(highest + 1)] if class_names is None else class_names
    return Source(
        name, tuple(names), splits["train"], splits.get("val"), splits.get("test")
    ).checked()


def _are_texts(names: object) -> bool:
    if isinstance(names, str) or not isinstance(names, Sequence):
        return False
    return all(isinstance(name, str) for name in names)


def _two_tensors(pair: object, split: str) -> tuple[Tensor, Tensor]:
    """The images and labels of a split, if they are tensors with content."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UsageError(f"{split}: should be two tensors, (images, labels)")
    for name, value in zip(("images", "labels"), pair, strict=True):
        if not isinstance(value, Tensor) or value.is_meta:
            what = "on the device meta" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(
                f"{split} {name}: should be a torch.Tensor with values, is {what}; torch.as_tensor "
                "makes one of an array or a list"
            )
    return pair[0], pair[1]


def _eight_bits(images: Tensor, name: str) -> Tensor:
    """Pixels as uint8; those in floating point must lie in [0, 1]."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise VitrellisError(f"{name}: are {images.dtype}; give uint8, or floating point in [0, 1]")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise VitrellisError(
            f"{name}: are floating point outside [0, 1] (or not finite); give images before "
            "normalisation, which Vitrellis does itself, or uint8"
        )
    return (images.float() * 255).round().to(torch.uint8)


def _whole_numbers(labels: Tensor, name: str) -> Tensor:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise VitrellisError(f"{name} labels: are {labels.dtype}; give whole numbers from 0")
    return labels.to(device="cpu", dtype=torch.int64)


@dataclass(frozen=True)
class _Survey:
    """The result of reading a dataset once."""

    dataset: Dataset[Any]
    labels: list[int]
    sizes: set[tuple[int, int]]
    channels: dict[int, str]
    digest: str


def _survey(dataset: Dataset[Any], name: str) -> _Survey:
    if not isinstance(dataset, Sized):
        raise VitrellisError(
            f"the {name} dataset has no length; give a map-style dataset, with __len__"
        )
    labels: list[int] = []
    sizes: set[tuple[int, int]] = set()
    channels: dict[int, str] = {}
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        where = f"{name} dataset, item {index}"
        pixels, label = _item(dataset, index, where)
        height, width = pixels.shape[1:]
        labels.append(label)
        sizes.add((height, width))
        channels.setdefault(len(pixels), where)
        digest.update(f"{tuple(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes())
    if not labels:
        raise VitrellisError(f"the {name} dataset is empty")
    return _Survey(dataset, labels, sizes, channels, digest.hexdigest())


def _item(dataset: Dataset[Any], index: int, where: str) -> tuple[Tensor, int]:
    """An item's pixels, uint8 `(C, H, W)`, and its label."""
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise VitrellisError(f"{where}: is a {type(item).__name__}; expected (image, label)")
    image, label = item
    try:
        number = operator.index(label)
    except TypeError:
        raise VitrellisError(
            f"{where}: its label is {label!r}; expected a whole number from 0"
        ) from None
    return _image(image, where), number


def _image(image: object, where: str) -> Tensor:
    if isinstance(image, Image.Image):
        return image_pixels(image, None, where)
    if isinstance(image, Tensor) and image.ndim == 3:
        return _eight_bits(image, where).cpu()
    shape = f" of shape {tuple(image.shape)}" if isinstance(image, Tensor) else ""
    raise VitrellisError(
        f"{where}: its image is a {type(image).__name__}{shape}; expected a Pillow image or a "
        "tensor (channels, height, width)"
    )


@dataclass(frozen=True)
class _DatasetImages:
    """Images that a dataset yields anew each time they are needed."""

    dataset: Dataset[Any]
    split: str
    channels: int
    size: tuple[int, int] | None
    digest: str

    def __len__(self) -> int:
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        where = self.name(index)
        pixels, _ = _item(self.dataset, index, where)
        if self.size is not None and tuple(pixels.shape[1:]) != self.size:
            raise VitrellisError(
                f"{where}: was {self.size} pixels when first read and is "
                f"{tuple(pixels.shape[1:])} now; a dataset must yield the same each time"
            )
        return to_channels(pixels, self.channels, where)

    def name(self, index: int) -> str:
        return f"{self.split} dataset, item {index}"

    def fingerprint(self) -> str:
        return self.digest
