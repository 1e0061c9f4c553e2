"""Head, mid and tail: classes with many, some and few training images.

Two definitions are in use. By counts: more than 100, 20 to 100, fewer than 20 (Liu et al., CVPR
2019, https://arxiv.org/abs/1904.05160). By rank: the classes sorted by falling count and cut at two
places, as DeiT-LT does (Rangwani et al., CVPR 2024, https://arxiv.org/abs/2404.02900). For
CIFAR-100-LT they differ, so figures of one must not be compared with figures of the other.

How we differ from github.com/val-iisc/DeiT-LT: classes keep their numbers, and are sorted only to
be cut; of equal counts the lower number comes first, where theirs depends on the version of numpy.
A group's accuracy is the mean over its classes that occur, so it is never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = ("head", "mid", "tail")
"""From many training images to few."""

THRESHOLDS = (100, 20)
"""Head classes have more images than the first, tail classes fewer than the second."""

COUNTED = "training images"
"""The name of the rule by counts."""

PUBLISHED_CUTS = {
    "cifar10": (3, 7),
    "cifar100": (36, 71),
    "imagenet-lt": (390, 835),
    "inaturalist-2018": (842, 4543),
}
"""For each source, the number of head classes, and the number of head and mid classes."""


@dataclass(frozen=True)
class Grouping:
    """The classes in three groups.

    Attributes:
        by: The rule that tells them apart, in a few words.
        meanings: The range of counts or ranks of each of `GROUPS`.
        members: The class indices of each group, ascending; a group may be empty.
    """

    by: str
    meanings: tuple[str, str, str]
    members: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def accuracies(self, confusion: Tensor) -> tuple[float | None, ...]:
        """The mean recall of each group's classes that occur; None if none of them does.

        Args:
            confusion: `(K, K)` counts, rows are the true classes.
        """
        true = confusion.sum(dim=1)  # (K,)
        recall = confusion.diagonal().double() / true.clamp_min(1)  # (K,)
        means: list[float | None] = []
        for classes in self.members:
            indices = torch.tensor(classes, dtype=torch.int64)
            indices = indices[true[indices] > 0]
            means.append(recall[indices].mean().item() if len(indices) else None)
        return tuple(means)

    def to_json(self, confusion: Tensor) -> dict[str, object]:
        """The definition, the number of classes and the accuracy of each group."""
        parts = zip(GROUPS, self.meanings, self.members, self.accuracies(confusion), strict=True)
        groups = {
            name: {"meaning": meaning, "classes": len(classes), "accuracy": accuracy}
            for name, meaning, classes, accuracy in parts
        }
        return {"by": self.by, **groups}


def by_count(class_counts: Sequence[int], thresholds: tuple[int, int] = THRESHOLDS) -> Grouping:
    """Groups classes by their training images.

    Args:
        class_counts: The training images of each class.
        thresholds: Head classes have more than the first, tail classes fewer than the second.
    """
    many, few = thresholds
    head = tuple(k for k, count in enumerate(class_counts) if count > many)
    tail = tuple(k for k, count in enumerate(class_counts) if count < few)
    mid = tuple(k for k, count in enumerate(class_counts) if few <= count <= many)
    meanings = (f"more than {many}", f"{few} to {many}", f"fewer than {few}")
    return Grouping(COUNTED, meanings, (head, mid, tail))


def by_rank(class_counts: Sequence[int], cuts: tuple[int, int]) -> Grouping:
    """Groups classes sorted by falling count; of equal counts the lower number comes first.

    Args:
        class_counts: The training images of each class.
        cuts: The number of head classes, and the number of head and mid classes.
    """
    order = sorted(range(len(class_counts)), key=lambda k: -class_counts[k])
    first, second = cuts
    parts = (order[:first], order[first:second], order[second:])
    head, mid, tail = (tuple(sorted(part)) for part in parts)
    meanings = (f"1 to {first}", f"{first + 1} to {second}", f"{second + 1} to {len(order)}")
    return Grouping("rank, as published", meanings, (head, mid, tail))


def groupings(class_counts: Sequence[int], source: str) -> tuple[Grouping, ...]:
    """The definitions that tell something about a training set.

    Args:
        class_counts: The training images of each class.
        source: The name of the dataset, for the published cuts.

    Returns:
        Nothing if the classes are balanced: the largest has less than twice the images of the
        smallest, or one image more, which is rounding in a set that is as equal as its size allows.
        Otherwise the groups by count, unless one holds all classes, and those by published cuts, if
        they differ.
    """
    most, least = max(class_counts), min(class_counts)
    if most < 2 * least or most - least <= 1:
        return ()
    counted = by_count(class_counts)
    result = [counted] if max(map(len, counted.members)) < len(class_counts) else []
    cuts = PUBLISHED_CUTS.get(source)
    if cuts is not None:
        ranked = by_rank(class_counts, cuts)
        result += [ranked] if ranked.members != counted.members else []
    return tuple(result)
