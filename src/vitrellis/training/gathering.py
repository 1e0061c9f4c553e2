"""Values of all processes of a run, in each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from vitrellis.analysis.inference import Gather
from vitrellis.errors import UsageError


def gathering(fabric: Fabric) -> Gather:
    """A function that returns the values of all processes, in their order, in each of them."""

    def gather(value: Any) -> list[Any]:
        if fabric.world_size == 1:
            return [value]
        return [fabric.broadcast(value, src=rank) for rank in range(fabric.world_size)]

    return gather


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
