"""Values of all processes of a run in each of them, and errors that end all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from vitrellis.analysis.inference import Gather
from vitrellis.errors import UsageError, VitrellisError


def gathering(fabric: Fabric) -> Gather:
    """A function that returns the values of all processes, in their order, in each of them.

    It raises `AnotherProcessFailed` if one of them ends `failing_together` with an error instead.
    """

    def gather(value: Any) -> list[Any]:
        if fabric.world_size == 1:
            return [value]
        values = [fabric.broadcast(value, src=rank) for rank in range(fabric.world_size)]
        errors = [each.text if isinstance(each, _Failure) else None for each in values]
        if any(error is not None for error in errors):
            raise AnotherProcessFailed(errors)
        return values

    return gather


@dataclass(frozen=True)
class _Failure:
    """What a process with an error gathers in place of a value."""

    text: str


class AnotherProcessFailed(VitrellisError):
    """A process that works together with this one has ended with an error, which it prints.

    Args:
        errors: The message of each process, by their order; None for those without an error.
    """

    is_shared = True

    def __init__(self, errors: list[str | None]) -> None:
        super().__init__("another process has ended with an error; its own message says why")
        self.errors = errors


@contextmanager
def failing_together(gather: Gather) -> Iterator[None]:
    """Ends all processes if one has an error within the block, and marks an error that all have.

    All processes have to go through the block, and may only call `gather` in it to communicate.

    Args:
        gather: The function of `gathering`.

    Raises:
        AnotherProcessFailed: If this process has no error.
        VitrellisError: The error of this process; it is shared if the first one has the same.
    """
    try:
        yield
        gather(None)
    except AnotherProcessFailed:
        raise
    except VitrellisError as error:
        try:
            gather(_Failure(str(error)))
        except AnotherProcessFailed as answer:
            error.is_shared = answer.errors[0] == str(error)
        raise


def gathering_rows(fabric: Fabric) -> Callable[[Tensor], Tensor]:
    """A function that returns the rows of a tensor in all processes, in their order, in each.

    The tensors `(N, ...)` may have different numbers of rows; they get no gradient.
    """

    def gather(rows: Tensor) -> Tensor:
        if fabric.world_size == 1:
            return rows
        counts = fabric.all_gather(torch.tensor(len(rows), device=rows.device))
        assert isinstance(counts, Tensor)
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = fabric.all_gather(padded)  # (processes, N, ...)
        return torch.cat([part[:n] for part, n in zip(gathered, counts.tolist(), strict=True)])

    return gather


def together(fabric: Fabric, work: Callable[[], str | None]) -> None:
    """Raises an error in all processes if there is one in any of them, so that none waits.

    Args:
        fabric: Fabric, launched.
        work: What each process does; it returns what is wrong, or None.

    Raises:
        UsageError: What the first process with an error says.
    """
    errors = [error for error in gathering(fabric)(work()) if error is not None]
    if errors:
        raise UsageError(errors[0])
