from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from vitrellis.data.sources import TensorImages, from_dataset, from_tensors
from vitrellis.errors import UsageError, VitrellisError

BYTES = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


class Pairs(Dataset[Any]):
    """A dataset of given items."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def photo(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_bytes_are_taken_as_they_are() -> None:
    source = from_tensors(BYTES, LABELS, ["a", "b", "c"], test=(BYTES[:2], LABELS[:2]))
    assert isinstance(source.train.images, TensorImages)
    assert torch.equal(source.train.images.tensor, BYTES)
    assert source.class_names == ("a", "b", "c")
    assert source.class_counts.tolist() == [2, 2, 2]
    assert list(source.splits) == ["train", "test"]


def test_classes_without_names_are_numbers() -> None:
    source = from_tensors(BYTES, LABELS.to(torch.uint8), val=(BYTES[:1], LABELS[:1]))
    assert source.class_names == ("0", "1", "2")
    assert source.train.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_point_from_0_to_1_becomes_bytes(dtype: torch.dtype) -> None:
    source = from_tensors(BYTES.to(dtype) / 255, LABELS)
    assert torch.equal(source.train.images[3], BYTES[3])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BYTES.float(), LABELS, r"train images: are floating point outside \[0, 1\]"),
        (BYTES / 255 - 0.5, LABELS, "before normalisation"),
        (torch.full((6, 3, 4, 5), torch.nan), LABELS, "not finite"),
        (BYTES.long(), LABELS, "train images: are torch.int64; give uint8"),
        (BYTES[:, 0], LABELS, r"uint8 of shape \(N, C, H, W\)"),
        (BYTES[:, :, :0], LABELS, r"train images: have no pixels: .*\(6, 3, 0, 5\)"),
        (BYTES, LABELS.float(), "train labels: are torch.float32; give whole numbers"),
        (BYTES, LABELS > 0, "train labels: are torch.bool"),
        (BYTES, LABELS[:5], "one per image"),
        (BYTES, LABELS - 1, "label -1 in the train split"),
        (BYTES, LABELS * 2, "no training image of '1', '3'"),
        (BYTES[:0], LABELS[:0], "at least two"),
    ],
)
def test_other_tensors_are_refused(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(VitrellisError, match=message):
        from_tensors(images, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, LABELS), "train images: should be a torch.Tensor with values, is NoneType"),
        ((BYTES.numpy(), LABELS), "train images: .* is ndarray; torch.as_tensor makes one"),
        ((BYTES, LABELS.tolist()), "train labels: .* is list"),
        ((BYTES.to("meta"), LABELS), "train images: .* is on the device meta"),
        ((BYTES, LABELS, [1, 2, 3]), r"class_names: \[1, 2, 3\] should be a list of texts"),
        ((BYTES, LABELS, "abc"), "class_names: 'abc' should be a list of texts"),
    ],
)
def test_arguments_of_other_kinds_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_tensors(*arguments)


def test_a_split_is_two_tensors() -> None:
    three: Any = (BYTES, LABELS, LABELS)
    with pytest.raises(UsageError, match=r"val: should be two tensors, \(images, labels\)"):
        from_tensors(BYTES, LABELS, val=three)
    nothing: Any = None
    with pytest.raises(UsageError, match="the train dataset is a NoneType"):
        from_dataset(nothing)


def test_labels_must_have_names() -> None:
    with pytest.raises(VitrellisError, match="label 2 in the train split; with 2 classes"):
        from_tensors(BYTES, LABELS, ["a", "b"])
    with pytest.raises(VitrellisError, match="label 7 in the val split"):
        from_tensors(BYTES, LABELS, ["a", "b", "c"], val=(BYTES[:1], torch.tensor([7])))


def test_a_dataset_of_photos_and_one_of_tensors_are_the_same_images() -> None:
    labels = LABELS.tolist()
    photos = Pairs(*((photo(image), label) for image, label in zip(BYTES, labels, strict=True)))
    sources = [
        from_dataset(photos),
        from_dataset(TensorDataset(BYTES, LABELS)),
        from_dataset(TensorDataset(BYTES / 255, LABELS)),
    ]
    for source in sources:
        assert torch.equal(torch.stack([source.train.images[i] for i in range(6)]), BYTES)
        assert source.train.labels.tolist() == labels
        assert source.train.images.size == (4, 5)
    assert len({source.fingerprint() for source in sources}) == 1


def test_sizes_may_differ_and_grey_joins_colour() -> None:
    grey = photo(BYTES[0]).convert("L").resize((7, 2))
    source = from_dataset(Pairs((grey, 0), (photo(BYTES[1]), np.int64(1))), test=Pairs((grey, 1)))
    assert source.test is not None
    assert (source.channels, source.train.images.size, source.test.images.size) == (3, None, (2, 7))
    assert source.test.images[0].shape == (3, 2, 7)
    assert torch.equal(source.train.images[1], BYTES[1])


def test_a_dataset_travels_to_other_processes_and_names_its_items() -> None:
    images = from_dataset(TensorDataset(BYTES, LABELS)).train.images
    again: Any = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[2], BYTES[2])
    assert again.name(2) == "train dataset, item 2"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["x"], "train dataset, item 1: is a str; expected"),
        ([(BYTES[0], 0, 1)], "train dataset, item 1: is a tuple; expected"),
        ([(BYTES[0], "cat")], "item 1: its label is 'cat'; expected a whole number"),
        ([(BYTES[0], 0.5)], "item 1: its label is 0.5"),
        ([(BYTES, 0)], r"item 1: its image is a Tensor of shape \(6, 3, 4, 5\)"),
        ([(BYTES[0].numpy(), 0)], "item 1: its image is a ndarray; expected"),
        ([(BYTES[0].float(), 0)], "item 1: are floating point outside"),
        ([(BYTES[0, :2], 1)], "item 0 has 3 channels|item 1 has 2"),
        ([(BYTES[0], 2)], "no training image of '1'"),
    ],
)
def test_other_items_are_refused_by_number(items: list[object], message: str) -> None:
    with pytest.raises(VitrellisError, match=message):
        from_dataset(Pairs((BYTES[0], 0), *items))


def test_a_dataset_must_have_a_length_and_items() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(VitrellisError, match="the train dataset has no length"):
        from_dataset(Stream())
    with pytest.raises(VitrellisError, match="the val dataset is empty"):
        from_dataset(TensorDataset(BYTES, LABELS), val=Pairs())


def test_a_dataset_that_changes_its_mind_is_found_out() -> None:
    items = [(BYTES[0], 0), (BYTES[1], 1)]
    dataset = Pairs()
    dataset.items = tuple(items)
    images = from_dataset(dataset).train.images
    dataset.items = ((BYTES[0, :, :2], 0), items[1])
    with pytest.raises(VitrellisError, match=r"item 0: was \(4, 5\) pixels .* \(2, 5\) now"):
        images[0]
