"""Sources by the name a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitrellis.data.sources.base import Source
from vitrellis.data.sources.cifar import load_cifar10, load_cifar100
from vitrellis.data.sources.fashion_mnist import load_fashion_mnist
from vitrellis.data.sources.folder import load_folder
from vitrellis.errors import unknown_name


def load_source(name: str, root: Path | None, *, channels: int | None = None) -> Source:
    """The data set called `name`.

    Args:
        name: A key of `SOURCES`.
        root: The folder it lies in; None for a set that is in this package.
        channels: 1 or 3 to make all images grey or colour; None for what they are.

    Raises:
        UsageError: If there is no such source.
        VitrellisError: If the folder does not hold what it should.
    """
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    return SOURCES[name](root, channels)


SOURCES: dict[str, Callable[[Path | None, int | None], Source]] = {
    "fashion-mnist": load_fashion_mnist,
    "folder": load_folder,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}
"""The loader of each source: `(root, channels)` to `Source`."""
