"""A long tail made on purpose: few classes keep many images, and many keep few.

Generator: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
NeurIPS 2019, https://arxiv.org/abs/1906.07413 (github.com/kaidic/LDAM-DRW), which everybody's
CIFAR-10-LT and CIFAR-100-LT come from. With the same settings, this chooses the same images.

How we differ from it: with an odd number of classes, "step" has a size for the last class too; a
profile that is not known is refused rather than read as "balanced"; a class that would keep nothing
is refused; numpy's global random numbers are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitrellis.data.randomness import philox
from vitrellis.errors import VitrellisError

Profile = Literal["exp", "step"]


@dataclass(frozen=True)
class LongTail:
    """The numbers of images that the classes keep.

    Attributes:
        profile: "exp" falls by the same ratio from class to class; "step" gives one half of the
            classes (the smaller one, if their number is odd) `largest` images, and the others the
            smallest number.
        imbalance_factor: Images of the largest class over those of the smallest.
        seed: Decides which images are kept; papers use 0.
        largest: Images of the largest class; None for as many as every class has.
        permute: Draw which class is large from the data's seed; otherwise class 0 is the largest.
    """

    profile: Profile = "exp"
    imbalance_factor: float = 100.0
    seed: int = 0
    largest: int | None = None
    permute: bool = False


def long_tailed(
    labels: Tensor, class_names: Sequence[str], settings: LongTail, *, seed: int
) -> Tensor:
    """Choose the images of a long tail. Classes keep their numbers.

    Args:
        labels: `(N,)` int64.
        class_names: K of them, for the messages.
        settings: The long tail to make.
        seed: Decides which class is large, if that is permuted.

    Returns:
        `(M,)` int64 indices, class by class, each class in the order of the published generator.

    Raises:
        VitrellisError: If a class has fewer images than it should keep, or should keep none.
    """
    num_classes = len(class_names)
    available = np.bincount(labels.numpy(), minlength=num_classes)  # (K,)
    largest = int(available.min()) if settings.largest is None else settings.largest
    sizes = profile_counts(settings.profile, settings.imbalance_factor, largest, num_classes)
    places = _places(num_classes, seed) if settings.permute else list(range(num_classes))
    # the papers' generator is numpy's legacy one, of which this is our own instance
    shuffler = np.random.RandomState(settings.seed)
    parts = []
    for label, place in enumerate(places):
        size = sizes[place]
        _check(class_names[label], size, int(available[label]), largest, settings)
        indices = np.flatnonzero(labels.numpy() == label)
        shuffler.shuffle(indices)
        parts.append(indices[:size])
    return torch.from_numpy(np.concatenate(parts))


def profile_counts(profile: Profile, factor: float, largest: int, num_classes: int) -> list[int]:
    """The number of images that each place keeps, the largest first: rounded down, as published.

    Args:
        profile: See `LongTail`.
        factor: Images of the largest class over those of the smallest.
        largest: Images of the first place.
        num_classes: Number of classes K, at least two.
    """
    ratio = 1 / factor
    if profile == "exp":
        return [int(largest * ratio ** (k / (num_classes - 1))) for k in range(num_classes)]
    return [largest if k < num_classes // 2 else int(largest * ratio) for k in range(num_classes)]


def _places(num_classes: int, seed: int) -> list[int]:
    """Each class's place in a random order, from 0 for the largest."""
    order = np.argsort(philox(seed, "long tail").random_raw(num_classes), kind="stable")
    return np.argsort(order).tolist()


def _check(name: str, size: int, available: int, largest: int, settings: LongTail) -> None:
    if size == 0:
        why = "" if settings.largest is not None else ", the number that every class has"
        raise VitrellisError(
            f"data.long_tail: class {name!r} would keep no image ({largest} in the largest class"
            f"{why}, over imbalance_factor {settings.imbalance_factor:g}). Use at most {largest}, "
            "or a larger data.long_tail.largest if the classes have so many images"
        )
    if size > available:
        raise VitrellisError(
            f"data.long_tail: class {name!r} has {available} images to train on and should keep "
            f"{size}; use a smaller data.long_tail.largest (without it, the number that every "
            "class has)"
        )
