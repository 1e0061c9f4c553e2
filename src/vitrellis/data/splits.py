"""Which images are learned from and which are validated on: stratified, seeded, never the test set.

Small choices are part of larger ones: the images of `train_size=500` are among those of
`train_size=1000`, and neither changes the validation images.
"""

from __future__ import annotations

import torch

from vitrellis.data.long_tail import LongTail, long_tailed
from vitrellis.data.sources.base import Source
from vitrellis.data.strata import (
    balanced_subset,
    check_fraction,
    stratified_folds,
    stratified_split,
)
from vitrellis.errors import VitrellisError


def prepare(
    source: Source,
    *,
    train_size: int | None,
    val_fraction: float,
    seed: int,
    long_tail: LongTail | None = None,
) -> Source:
    """A source as a run uses it: with a validation split, and as many training images as wanted.

    The validation split is cut from all training images first. So it has as many images of a rare
    class as of any other where the set is balanced and the long tail is made of what is left.

    Args:
        source: Its test split is left as it is; so is its validation split, if it has one.
        train_size: How many training images to keep, as many of each class as possible; None for
            all. Does not count the validation images, nor change them.
        val_fraction: Share of the training images that becomes the validation split, if there is
            none; 0 to do without.
        seed: Decides which images.
        long_tail: Makes a long tail of the training images; not together with `train_size`.

    Raises:
        UsageError: If `val_fraction` is not in [0, 1).
        VitrellisError: If nothing can be cut, or `train_size` or the long tail is not possible.
    """
    assert train_size is None or long_tail is None
    check_fraction(val_fraction)
    train, val = source.train, source.val
    if val is None and val_fraction > 0:
        kept, cut = stratified_split(train.labels, val_fraction, seed, source.num_classes)
        if len(cut) == 0:
            raise VitrellisError(
                f"source {source.name!r}: no class has two images, so none can be validated on; "
                "give a validation split, or set data.val_fraction=0"
            )
        train, val = train.subset(kept), train.subset(cut)
    if long_tail is not None:
        train = train.subset(long_tailed(train.labels, source.class_names, long_tail, seed=seed))
    if train_size is not None:
        train = train.subset(balanced_subset(train.labels, train_size, seed, source.num_classes))
    return source.with_splits(train=train, val=val, test=source.test)


def with_fold(source: Source, *, folds: int, fold: int, seed: int) -> Source:
    """A source for cross-validation: one part of its training images is tested on.

    Args:
        source: Its own test split is left aside; a validation split is kept.
        folds: How many parts.
        fold: Which of them, from 0.
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
