from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrellis.data.sources import Source, from_tensors
from vitrellis.data.splits import (
    balanced_subset,
    prepare,
    stratified_folds,
    stratified_split,
    with_fold,
)
from vitrellis.errors import UsageError, VitrellisError

FRACTIONS = [0.01, 0.1, 0.25, 0.5, 0.9, 0.999]


def random_labels(seed: int, largest: int = 40) -> tuple[Tensor, int]:
    """Labels of some classes of 1 to `largest` images each, in random order."""
    dice = np.random.default_rng(seed)
    counts = dice.integers(1, largest + 1, size=dice.integers(2, 12))
    labels = dice.permutation(np.repeat(np.arange(len(counts)), counts))
    return torch.from_numpy(labels), len(counts)


def counts(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=num_classes)


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


def test_a_split_is_stratified_to_within_one_image() -> None:
    for seed, fraction in itertools.product(range(12), FRACTIONS):
        case = f"seed {seed}, fraction {fraction}"
        labels, num_classes = random_labels(seed)
        kept, cut = stratified_split(labels, fraction, seed, num_classes)
        assert torch.equal(torch.cat([kept, cut]).sort().values, torch.arange(len(labels))), case
        assert torch.equal(kept, kept.sort().values), case
        assert torch.equal(cut, cut.sort().values), case
        exact = counts(labels, num_classes) * fraction
        assert ((counts(labels[cut], num_classes) - exact).abs() < 1).all(), case
        assert (counts(labels[kept], num_classes) >= 1).all(), case


def test_the_total_is_right_where_classes_are_large_enough() -> None:
    for seed, fraction in itertools.product(range(12), (0.1, 0.25, 0.5)):
        labels, num_classes = random_labels(seed)
        labels = labels.repeat(2)
        _, cut = stratified_split(labels, fraction, seed, num_classes)
        expected = max(1, round(fraction * len(labels)))
        assert len(cut) == expected, f"seed {seed}, fraction {fraction}"


def test_the_split_depends_on_the_seed_alone() -> None:
    labels, num_classes = random_labels(3)
    splits = [stratified_split(labels, 0.3, seed, num_classes)[1].tolist() for seed in (5, 5, 6)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_every_image_of_a_class_is_equally_likely_to_be_cut() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    cut = torch.cat([stratified_split(labels, 0.3, seed, 1)[1] for seed in range(2000)])
    shares = torch.bincount(cut, minlength=10) / 2000
    assert ((shares - 0.3).abs() < 0.05).all()


def test_rounding_favours_no_class() -> None:
    labels = torch.arange(10).repeat_interleave(5)
    cut = torch.cat([labels[stratified_split(labels, 0.1, seed, 10)[1]] for seed in range(1000)])
    assert len(cut) == 5 * 1000
    assert ((torch.bincount(cut) / 1000 - 0.5).abs() < 0.08).all()


def test_a_class_with_one_image_stays() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    kept, cut = stratified_split(labels, 0.9, 0, 3)
    assert len(cut) == 1
    assert {0, 1} < set(kept.tolist())
    kept, cut = stratified_split(torch.arange(3), 0.5, 0, 3)
    assert (kept.tolist(), cut.tolist()) == ([0, 1, 2], [])


def test_a_small_share_is_at_least_one_image_and_none_is_none() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert len(stratified_split(labels, 0.01, 0, 2)[1]) == 1
    assert stratified_split(labels, 0.0, 0, 2)[0].tolist() == [0, 1, 2, 3]


def test_a_subset_is_as_balanced_as_can_be() -> None:
    for seed in range(12):
        labels, num_classes = random_labels(seed)
        available = counts(labels, num_classes)
        for size in range(num_classes, len(labels) + 1, 7):
            case = f"seed {seed}, size {size}"
            subset = balanced_subset(labels, size, seed, num_classes)
            sizes = counts(labels[subset], num_classes)
            assert len(set(subset.tolist())) == size, case
            assert torch.equal(subset, subset.sort().values), case
            assert (sizes >= 1).all(), case
            unexhausted = sizes[sizes < available]
            assert len(unexhausted) == 0 or sizes.max() - unexhausted.min() <= 1, case


def test_a_smaller_subset_is_part_of_a_larger_one() -> None:
    labels, num_classes = random_labels(7)
    nested = [
        set(balanced_subset(labels, size, 1, num_classes).tolist())
        for size in range(num_classes, len(labels) + 1)
    ]
    assert all(small < large for small, large in itertools.pairwise(nested))
    other = set(balanced_subset(labels, num_classes, 2, num_classes).tolist())
    assert other != nested[0]


def test_impossible_sizes_are_refused() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    with pytest.raises(VitrellisError, match=r"data.train_size=5: there are only 4 images"):
        balanced_subset(labels, 5, 0, 3)
    with pytest.raises(VitrellisError, match=r"data.train_size=2: fewer than the 3 classes"):
        balanced_subset(labels, 2, 0, 3)


def test_the_subset_and_the_validation_images_are_chosen_independently() -> None:
    labels = torch.zeros(400, dtype=torch.int64)
    cut = set(stratified_split(labels, 0.5, 9, 1)[1].tolist())
    chosen = set(balanced_subset(labels, 200, 9, 1).tolist())
    assert 70 < len(cut & chosen) < 130


def test_choices_are_the_same_on_every_machine() -> None:
    # The first numbers of Philox for the key (0, 2), as Salmon et al. (2011) define it
    labels = torch.zeros(6, dtype=torch.int64)
    numbers = np.random.Philox(key=np.array([0, 2], dtype=np.uint64)).random_raw(7)[1:]
    assert balanced_subset(labels, 2, 0, 1).tolist() == sorted(np.argsort(numbers)[:2].tolist())


def test_folds_are_stratified_to_within_one_image() -> None:
    for seed, folds in itertools.product(range(6), (2, 5, 10)):
        case = f"seed {seed}, {folds} folds"
        labels, num_classes = random_labels(seed)
        part = stratified_folds(labels, folds, seed, num_classes)
        sizes = torch.bincount(part, minlength=folds)
        assert sizes.sum() == len(labels), case
        assert sizes.max() - sizes.min() <= 1, case
        for k in range(num_classes):
            of_class = torch.bincount(part[labels == k], minlength=folds)
            assert of_class.max() - of_class.min() <= 1, case
