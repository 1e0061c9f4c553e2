"""Values of all processes of a run, in each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.fabric import Fabric

from vitrellis.analysis.inference import Gather
from vitrellis.errors import UsageError


def gathering(fabric: Fabric) -> Gather:
    """A function that returns the values of all processes, in their order, in each of them."""

    def gather(value: Any) -> list[Any]:
        if fabric.world_size == 1:
            return [value]
        return [fabric.broadcast(value, src=rank) for rank in range(fabric.world_size)]

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
