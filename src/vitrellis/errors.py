"""Errors that a user can cause, and how an unknown name is answered.

Each names the file, key or value, what is wrong with it and what would be right. The command line
prints them without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class VitrellisError(ValueError):
    """The job failed for a reason the user can mend: a bad file, a folder, a diverging run."""

    exit_code = 1
    is_shared = False
    """Whether all processes that train together raise it, so that the first can report it."""
    argument: str | None = None
    """The argument of `create_model` at fault, where known, such as `weights` or `args.depth`."""


class UsageError(VitrellisError):
    """The words were wrong: an unknown recipe, key, option or model name."""

    exit_code = 2
    is_shared = True


@contextmanager
def blaming(argument: str) -> Iterator[None]:
    """Notes in an error from the block which argument is at fault, for those who know its key."""
    try:
        yield
    except VitrellisError as error:
        error.argument = error.argument or argument
        raise


@contextmanager
def under_key(key: str) -> Iterator[None]:
    """Puts a key of the recipe before the message of an error from the block."""
    try:
        yield
    except VitrellisError as error:
        error.args = (f"{key}: {error}",)
        raise


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for `name` that is not among `known`: lists them, and the nearest one first.

    Args:
        kind: What the name stands for, singular: "source", "recipe", "model".
        name: What the user wrote.
        known: What they could have written.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UsageError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}")


def no_such_option(word: str, meant: str = "training.epochs") -> UsageError:
    """The error for a word that begins with a dash where a recipe or a key was expected.

    Args:
        word: The word.
        meant: The key of the recipe that it may stand for.
    """
    name, _, value = word.partition("=")
    return UsageError(
        f"command line: {name}: no such option (--help lists the options). Keys of the recipe are "
        f"given without dashes, as key=value, such as {meant}={value or '20'}"
    )
