from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.data.test_strata import random_labels
from vitrellis.data.sources import Source, from_tensors
from vitrellis.data.splits import prepare, stratified_split, with_fold
from vitrellis.errors import UsageError, VitrellisError


def source_of(labels: Tensor, *, val: bool = False) -> Source:
    """A source whose images are their own numbers: pixel 0 the low byte, pixel 1 the high one."""
    numbers = torch.arange(len(labels))
    images = torch.stack([numbers % 256, numbers // 256], dim=1).to(torch.uint8)
    images = images.reshape(-1, 1, 1, 2)
    own = (images[:3], labels[:3])
    return from_tensors(images, labels, val=own if val else None, test=own)


def numbers_of(source: Source, split: str) -> list[int]:
    images = source.splits[split].images
    return [int(images[i][0, 0, 0]) + 256 * int(images[i][0, 0, 1]) for i in range(len(images))]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_shares_are_refused(fraction: float) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(UsageError, match=r"data\.val_fraction="):
        stratified_split(labels, fraction, 0, 2)
    with pytest.raises(UsageError, match=r"data\.val_fraction="):
        prepare(source_of(labels), train_size=None, val_fraction=fraction, seed=0)


def test_validation_images_come_from_training_and_do_not_depend_on_its_size() -> None:
    labels, _ = random_labels(5)
    source = source_of(labels)
    whole = prepare(source, train_size=None, val_fraction=0.2, seed=3)
    part = prepare(source, train_size=20, val_fraction=0.2, seed=3)
    val = numbers_of(whole, "val")
    assert numbers_of(part, "val") == val
    assert len(part.train) == 20
    assert set(numbers_of(part, "train")) < set(numbers_of(whole, "train"))
    assert sorted(val + numbers_of(whole, "train")) == list(range(len(labels)))
    assert whole.test is source.test
    assert whole.train.labels.tolist() == labels[numbers_of(whole, "train")].tolist()


def test_an_own_validation_split_is_kept() -> None:
    source = source_of(random_labels(5)[0], val=True)
    prepared = prepare(source, train_size=None, val_fraction=0.5, seed=0)
    assert prepared.val is source.val
    assert prepared.train is source.train


def test_validation_can_be_declined() -> None:
    source = source_of(random_labels(5)[0])
    assert prepare(source, train_size=None, val_fraction=0.0, seed=0).val is None


def test_fifty_images_in_ten_classes() -> None:
    source = source_of(torch.arange(50) % 10)
    prepared = prepare(source, train_size=30, val_fraction=0.1, seed=0)
    assert prepared.class_counts.tolist() == [3] * 10
    assert prepared.val is not None
    assert len(prepared.val) == 5


def test_too_few_images_for_what_is_asked() -> None:
    with pytest.raises(VitrellisError, match=r"no class has two images.*data\.val_fraction=0"):
        prepare(source_of(torch.arange(4)), train_size=None, val_fraction=0.1, seed=0)
    with pytest.raises(VitrellisError, match="only 9 images to train on"):
        prepare(source_of(torch.arange(10) % 2), train_size=10, val_fraction=0.1, seed=0)


def test_every_image_is_tested_on_once_and_never_trained_on_then() -> None:
    labels, _ = random_labels(3)
    source = source_of(labels)
    tested: list[int] = []
    for fold in range(4):
        held_out = with_fold(source, folds=4, fold=fold, seed=1)
        train, test = numbers_of(held_out, "train"), numbers_of(held_out, "test")
        assert set(train).isdisjoint(test)
        assert len(train) + len(test) == len(labels)
        tested += test
    assert sorted(tested) == list(range(len(labels)))
    again = with_fold(source, folds=4, fold=3, seed=2)
    assert numbers_of(again, "test") != tested[-len(numbers_of(again, "test")) :]


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(VitrellisError, match=r"data\.folds=9: there are only 8 images"):
        with_fold(source_of(torch.arange(8) % 2), folds=9, fold=0, seed=0)
