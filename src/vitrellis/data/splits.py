"""Training, validation and cross-validation splits: stratified, seeded, never of the test set.

Small subsets are part of larger ones: the images of `train_size=500` are among those of
`train_size=1000`, and neither changes the validation images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.data.long_tail import LongTail, long_tailed
from vitrellis.data.randomness import philox
from vitrellis.data.source import Source
from vitrellis.errors import UsageError, VitrellisError


def prepare(
    source: Source,
    *,
    train_size: int | None,
    val_fraction: float,
    seed: int,
    long_tail: LongTail | None = None,
) -> Source:
    """A source as a run uses it: with a validation split, and perhaps fewer training images.

    The validation split is cut from all training images first. So it has as many images of a rare
    class as of any other where the set is balanced and the long tail is made of what is left.

    Args:
        source: Its test split is left as it is; so is its validation split, if it has one.
        train_size: Number of training images to keep, as many of each class as possible; None for
            all. Does not count the validation images, nor change them.
        val_fraction: Share of the training images that becomes the validation split, if there is
            none; 0 to do without.
        seed: Decides which images these are.
        long_tail: Makes a long tail of the training images; not together with `train_size`.

    Raises:
        UsageError: If `val_fraction` is not in [0, 1).
        VitrellisError: If nothing can be cut, or `train_size` or the long tail is not possible.
    """
    assert train_size is None or long_tail is None
    check_fraction(val_fraction)
    train, val = source.train, source.val
    if val is None and val_fraction > 0:
        train_indices, val_indices = stratified_split(
            train.labels, val_fraction, seed, source.num_classes
        )
        if len(val_indices) == 0:
            raise VitrellisError(
                f"source {source.name!r}: no class has two images, so none can be validated on; "
                "give a validation split, or set data.val_fraction=0"
            )
        train, val = train.subset(train_indices), train.subset(val_indices)
    if long_tail is not None:
        train = train.subset(long_tailed(train.labels, source.class_names, long_tail, seed=seed))
    if train_size is not None:
        train = train.subset(balanced_subset(train.labels, train_size, seed, source.num_classes))
    return source.with_splits(train=train, val=val, test=source.test)


def with_fold(source: Source, *, folds: int, fold: int, seed: int) -> Source:
    """A source for cross-validation: one part of its training images is tested on.

    Args:
        source: Its own test split is left aside; a validation split is kept.
        folds: Number of parts.
        fold: Number of the part to test on, from 0.
        seed: Decides which images are in which part.

    Raises:
        VitrellisError: If there are more parts than images.
    """
    train = source.train
    if folds > len(train):
        raise VitrellisError(f"data.folds={folds}: there are only {len(train)} images")
    part = stratified_folds(train.labels, folds, seed, source.num_classes)
    held_out = part == fold
    return source.with_splits(
        train=train.subset(torch.nonzero(~held_out).flatten()),
        val=source.val,
        test=train.subset(torch.nonzero(held_out).flatten()),
    )


def stratified_split(
    labels: Tensor, fraction: float, seed: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Cut a share of the images off, the same share of each class to less than one image.

    Of `n` images of a class, `fraction * n` rounded up or down are cut off, rounding so that the
    total comes as near `fraction * N` as that allows, and is at least one; but one always stays.

    Args:
        labels: `(N,)` int64.
        fraction: The share, in [0, 1).
        seed: Decides which images.
        num_classes: Number of classes, K.

    Returns:
        Indices of what stays and of what is cut off, int64, both ascending.

    Raises:
        UsageError: If `fraction` is not in [0, 1).
    """
    check_fraction(fraction)
    if fraction == 0:
        return torch.arange(len(labels)), torch.empty(0, dtype=torch.int64)
    ranks, class_order = _ranks(labels, seed, "validation", num_classes)
    counts = np.bincount(labels.numpy(), minlength=num_classes)  # (K,)
    exact = fraction * counts
    quotas = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    rest = exact - quotas
    can_give = (rest > 0) & (quotas < counts - 1)
    missing = max(1, round(fraction * len(labels))) - int(quotas.sum())
    by_rest = np.lexsort((class_order, -rest))
    quotas[by_rest[can_give[by_rest]][: max(missing, 0)]] += 1
    is_cut = torch.from_numpy(ranks < quotas[labels.numpy()])  # (N,)
    return torch.nonzero(~is_cut).flatten(), torch.nonzero(is_cut).flatten()


def stratified_folds(labels: Tensor, folds: int, seed: int, num_classes: int) -> Tensor:
    """The part that each image belongs to; parts and their classes differ by at most one image.

    Args:
        labels: `(N,)` int64.
        folds: Number of parts.
        seed: Decides which images.
        num_classes: Number of classes, K.

    Returns:
        `(N,)` int64 in [0, folds).
    """
    ranks, _ = _ranks(labels, seed, "folds", num_classes)
    counts = np.bincount(labels.numpy(), minlength=num_classes)
    # the first image of a class goes to the part after that of the last image of the class before
    before = np.cumsum(counts) - counts  # (K,)
    return torch.from_numpy((before[labels.numpy()] + ranks) % folds)


def balanced_subset(labels: Tensor, size: int, seed: int, num_classes: int) -> Tensor:
    """Choose `size` images, as many of each class as possible.

    Classes differ by at most one image, except those that have no more: others make up for them.
    A smaller subset with the same seed is part of a larger one.

    Args:
        labels: `(N,)` int64.
        size: Number of images.
        seed: Decides which images, and which classes get one more.
        num_classes: Number of classes, K.

    Returns:
        `(size,)` int64 indices, ascending.

    Raises:
        VitrellisError: If there are not so many, or not one for each class.
    """
    if size > len(labels):
        raise VitrellisError(
            f"data.train_size={size}: there are only {len(labels)} images to train on "
            "(validation images not counted)"
        )
    if size < num_classes:
        raise VitrellisError(
            f"data.train_size={size}: fewer than the {num_classes} classes; "
            "each needs at least one image"
        )
    ranks, class_order = _ranks(labels, seed, "subset", num_classes)
    by_turns = np.lexsort((class_order[labels.numpy()], ranks))  # (N,)
    return torch.from_numpy(np.sort(by_turns[:size]))


def _ranks(
    labels: Tensor, seed: int, stream: str, num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Each image's place in a random order of its class, `(N,)`, and a random order of classes."""
    numbers = philox(seed, stream)
    class_order = numbers.random_raw(num_classes)  # (K,)
    image_order = numbers.random_raw(len(labels))  # (N,)
    classes = labels.numpy()
    by_class = np.lexsort((image_order, classes))
    counts = np.bincount(classes, minlength=num_classes)
    ranks = np.empty(len(classes), dtype=np.int64)
    ranks[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks, class_order


def check_fraction(fraction: float) -> None:
    """Raises a `UsageError` if a validation split cannot have this share."""
    if not 0 <= fraction < 1:
        raise UsageError(
            f"data.val_fraction={fraction}: must be at least 0 (no validation) and below 1"
        )
