"""Words that datasets use for splits, and the lists of names that lie beside images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitrellis.errors import VitrellisError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The words for the three splits, in lower case."""


_CLASSES_PER_IMAGE = 10
_CLASSES_OF_A_FEW_IMAGES = 10_000
"""With these many, classes without images are still taken for a part of a larger set."""


def numbers_as_names(highest: int, num_images: int, where: str | Path) -> tuple[str, ...]:
    """The names "0", "1" and so on of classes that have numbers only.

    Args:
        highest: The greatest class number that occurs.
        num_images: Number of images in all splits.
        where: The file or folder, for the message.

    Raises:
        VitrellisError: If the number cannot be that of a class, because images are far fewer.
    """
    if highest >= _CLASSES_PER_IMAGE * num_images + _CLASSES_OF_A_FEW_IMAGES:
        raise VitrellisError(
            f"{where}: has the class number {highest:,}, and {num_images:,} images. Classes are "
            "numbered from 0 on, without gaps"
        )
    return tuple(str(number) for number in range(highest + 1))


def class_names_in(text: str, highest: int, label: str | Path) -> tuple[str, ...]:
    """The class names in a text, one a line.

    Args:
        text: The text; empty lines do not count.
        highest: The greatest class number that occurs.
        label: The file, for the message.

    Raises:
        VitrellisError: If there are fewer names than class numbers.
    """
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) <= highest:
        raise VitrellisError(
            f"{label}: has {len(names)} names, and class numbers go up to {highest}"
        )
    return names


def synset_names(meanings: Mapping[str, str], wnids: Sequence[str]) -> tuple[str, ...]:
    """The first name of each WordNet number; with the number where two share a name.

    Args:
        meanings: The names of each number, separated by commas; a number without is its own name.
        wnids: The numbers of the classes.
    """
    first = [meanings.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    count = Counter(first)
    return tuple(
        f"{name} ({wnid})" if count[name] > 1 else name
        for name, wnid in zip(first, wnids, strict=True)
    )
