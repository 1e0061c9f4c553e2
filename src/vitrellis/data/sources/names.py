"""The datasets that a recipe can name, gathered from the files of this package.

A new layout is one file beside this one: a function `load_x(root, channels, *, ...)` that returns
a `Source`, and at the end of the file `LAYOUTS = {"x": load_x}`, the name that recipes give it.
Keyword-only arguments of the function are the keys of `data.args`. A file may also say by which
files the layout is recognised: `RECOGNIZED_BY = {"x": lambda root: (root / "x.txt").is_file()}`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitrellis.data.source import Source
from vitrellis.data.sources.unreadable import refuse_known_bad
from vitrellis.errors import UsageError, VitrellisError, unknown_name


def _scan(constant: str) -> dict[str, Callable[..., Any]]:
    """All that the files of this package declare under this name, sorted."""
    everything: dict[str, Callable[..., Any]] = {}
    package, _, this_file = __name__.rpartition(".")
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if file.name != this_file:
            declared = getattr(importlib.import_module(f"{package}.{file.name}"), constant, {})
            assert everything.keys().isdisjoint(declared), f"{file.name}.py repeats a name"
            everything |= declared
    return dict(sorted(everything.items()))


SOURCES: dict[str, Callable[..., Source]] = _scan("LAYOUTS")
"""The loader of each source: `(root, channels)`, and keyword arguments of its own, to `Source`."""

_RECOGNIZED_BY: dict[str, Callable[[Path], bool]] = _scan("RECOGNIZED_BY")
_GENERAL = ("lists", "arrays", "table")  # recognised only where no dataset is


def recognized(root: Path) -> list[str]:
    """The names of the sources that a folder or file looks like; `folder` if none is recognised.

    Raises:
        VitrellisError: If there is no such folder or file.
    """
    if not root.exists():
        raise VitrellisError(f"{root}: no such folder or file")
    found = [name for name, test in _RECOGNIZED_BY.items() if test(root)]
    datasets = [name for name in found if name not in _GENERAL]
    general = [name for name in _GENERAL if name in found]
    return datasets or general[:1] or ["folder"]


def load_source(
    name: str,
    root: Path | None,
    *,
    channels: int | None = None,
    args: Mapping[str, Any] | None = None,
    keep_bad: bool = False,
) -> Source:
    """The dataset called `name`.

    Args:
        name: A key of `SOURCES`.
        root: The folder that holds it; None for a dataset that is in a package.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.
        args: Further keyword arguments of the source's loader.
        keep_bad: Whether images may be there that cannot be read (see `without_bad_images`).

    Raises:
        UsageError: If there is no such source, or it has no such argument, or not with such values.
        VitrellisError: If the folder does not hold what it should, or images were found to be bad
            when it was opened; names up to ten of them, and counts them.
    """
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    known = loader_arguments(name)
    for argument in args or {}:
        if not known:
            raise UsageError(f"data.args.{argument}: source {name!r} takes no arguments")
        if argument not in known:
            raise unknown_name(f"argument of source {name!r} (data.args)", argument, known)
    try:
        source = SOURCES[name](root, channels, **(args or {}))
    except UsageError:
        raise
    except VitrellisError as error:
        if root is None or str(root.expanduser()) in str(error):
            raise
        raise VitrellisError(f"{root}: {error}") from error
    return source if keep_bad else refuse_known_bad(source)


def loader_arguments(name: str) -> list[str]:
    """The keys of `data.args` that the source called `name` knows."""
    parameters = inspect.signature(SOURCES[name]).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def described_arguments() -> str:
    """The keys of `data.args` with the sources that know them, for the help."""
    named = {name: loader_arguments(name) for name in SOURCES}
    return "; ".join(f"{name}: `{'`, `'.join(keys)}`" for name, keys in named.items() if keys)
