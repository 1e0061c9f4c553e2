"""Words that datasets use for splits, and the lists of names that lie beside images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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


def check_class_numbers(numbers: Collection[int], label: str | Path) -> None:
    """Refuses class numbers that cannot be: as every class has an image, none is so high.

    Raises:
        VitrellisError: If one is negative, or not below the number of images.
    """
    if numbers and (min(numbers) < 0 or max(numbers) >= len(numbers)):
        wrong = min(numbers) if min(numbers) < 0 else max(numbers)
        raise VitrellisError(
            f"{label}: has the class number {wrong:,}, with {len(numbers):,} images in all; class "
            "numbers go from 0 up, and each has an image"
        )


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
