"""Sources by the name a recipe gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitrellis.data.source import Source
from vitrellis.data.sources.chaoyang import load_chaoyang
from vitrellis.data.sources.cifar import load_cifar10, load_cifar100
from vitrellis.data.sources.elpv import load_elpv
from vitrellis.data.sources.fashion_mnist import load_fashion_mnist
from vitrellis.data.sources.flowers102 import load_flowers102
from vitrellis.data.sources.folder import load_folder
from vitrellis.data.sources.inaturalist import load_inaturalist
from vitrellis.data.sources.lists import load_imagenet_lt, load_inaturalist2018, load_lists
from vitrellis.data.sources.tiny_imagenet import load_tiny_imagenet
from vitrellis.errors import UsageError, unknown_name


def load_source(
    name: str,
    root: Path | None,
    *,
    channels: int | None = None,
    args: Mapping[str, Any] | None = None,
) -> Source:
    """The data set called `name`.

    Args:
        name: A key of `SOURCES`.
        root: The folder it lies in; None for a set that is in this package.
        channels: 1 or 3 to make all images grey or colour; None for what they are.
        args: What else the source wants to know: keyword arguments of its loader.

    Raises:
        UsageError: If there is no such source, or it has no such argument, or not with such values.
        VitrellisError: If the folder does not hold what it should.
    """
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    loader, given = SOURCES[name], dict(args or {})
    parameters = inspect.signature(loader).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for argument in given:
        if argument not in known and not known:
            raise UsageError(f"data.args.{argument}: source {name!r} takes no arguments")
        if argument not in known:
            raise unknown_name(f"argument of source {name!r} (data.args)", argument, known)
    return loader(root, channels, **given)


SOURCES: dict[str, Callable[..., Source]] = {
    "fashion-mnist": load_fashion_mnist,
    "folder": load_folder,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "flowers102": load_flowers102,
    "tiny-imagenet": load_tiny_imagenet,
    "chaoyang": load_chaoyang,
    "elpv": load_elpv,
    "lists": load_lists,
    "imagenet-lt": load_imagenet_lt,
    "inaturalist-2018": load_inaturalist2018,
    "inaturalist": load_inaturalist,
}
"""The loader of each source: `(root, channels)`, and keyword arguments of its own, to `Source`."""
