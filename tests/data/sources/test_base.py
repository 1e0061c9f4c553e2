from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitrellis.data.source import root_folder
from vitrellis.data.sources import Source, Split, Subset, TensorImages
from vitrellis.errors import VitrellisError


def pixels(count: int, channels: int = 1) -> Tensor:
    values = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return values.repeat(1, channels, 2, 3)


def split(labels: list[int], channels: int = 1) -> Split:
    return Split(
        TensorImages(pixels(len(labels), channels)), torch.tensor(labels, dtype=torch.int64)
    )


def test_a_subset_keeps_order_labels_and_names() -> None:
    part = split([0, 1, 2, 3]).subset(torch.tensor([3, 1]))
    assert part.labels.tolist() == [3, 1]
    assert [int(part.images[i][0, 0, 0]) for i in range(2)] == [3, 1]
    assert [part.images.name(i) for i in range(2)] == ["image 3", "image 1"]
    assert (part.images.size, part.images.channels, len(part)) == ((2, 3), 1, 2)


def test_a_subset_of_a_subset_counts_within_the_subset() -> None:
    outer = Subset(TensorImages(pixels(5)), torch.tensor([4, 2, 0]))
    inner = Subset(outer, torch.tensor([2, 0]))
    assert [int(inner[i][0, 0, 0]) for i in range(2)] == [0, 4]


def test_the_fingerprint_follows_pixels_labels_classes_and_choice() -> None:
    source = Source("x", ("a", "b"), split([0, 1, 1]))
    equal = Source("x", ("a", "b"), split([0, 1, 1]))
    brighter = Split(TensorImages(pixels(3) + 1), torch.tensor([0, 1, 1]))
    others = [
        Source("x", ("a", "c"), split([0, 1, 1])),
        Source("x", ("a", "b"), split([0, 1, 0])),
        Source("x", ("a", "b"), brighter),
        Source("x", ("a", "b"), split([0, 1, 1]).subset(torch.tensor([0, 1]))),
        Source("x", ("a", "b"), split([0, 1, 1]), val=split([0])),
        Source("x", ("a", "b"), split([0, 1, 1]), test=split([0])),
    ]
    prints = [other.fingerprint() for other in others]
    assert equal.fingerprint() == source.fingerprint()
    assert len({source.fingerprint(), *prints}) == len(others) + 1


def test_counts_and_splits() -> None:
    source = Source("x", ("a", "b", "c"), split([2, 0, 2]), test=split([1]))
    assert source.class_counts.tolist() == [1, 0, 2]
    assert list(source.splits) == ["train", "test"]
    assert source.num_classes == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("x", ("a",), split([0])), "at least two"),
        (Source("x", ("a", "a"), split([0, 1])), "several classes named 'a'"),
        (Source("x", ("a", "b"), split([0, 2])), "label 2 in the train split"),
        (Source("x", ("a", "b"), split([0, -1])), "label -1 in the train split"),
        (Source("x", ("a", "b"), split([0, 1]), test=split([5])), "label 5 in the test split"),
        (Source("x", ("a", "b", "c"), split([0, 1])), "no training image of 'c'"),
        (Source("x", ("a", "b"), split([])), "the train split has no images"),
        (Source("x", ("a", "b"), split([0, 1]), val=split([0], 3)), "val images have 3 channels"),
    ],
)
def test_a_source_that_cannot_be_learned_from_is_refused(source: Source, message: str) -> None:
    with pytest.raises(VitrellisError, match=message):
        source.checked()


def test_many_missing_classes_are_counted() -> None:
    names = tuple(str(number) for number in range(20))
    with pytest.raises(VitrellisError, match="'6' and 13 more"):
        Source("x", names, split([0, 1])).checked()


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.tensor([0.0, 1.0])])
def test_labels_must_be_one_whole_number_per_image(labels: Tensor) -> None:
    with pytest.raises(VitrellisError, match="one per image"):
        Split(TensorImages(pixels(2)), labels)


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 2, 2), pixels(2)[0]])
def test_images_must_be_bytes_of_four_dimensions(images: Tensor) -> None:
    with pytest.raises(VitrellisError, match="uint8 of shape"):
        TensorImages(images)


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root, message in [
        (None, "needs data.root"),
        (tmp_path / "missing", "no such folder: .*missing"),
        (tmp_path / "file", "not a folder: .*file"),
    ]:
        with pytest.raises(VitrellisError, match=f"{message}.*cats"):
            root_folder(root, "folder", "cats")
    assert root_folder(tmp_path, "folder", "cats") == tmp_path
