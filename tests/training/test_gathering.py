"""Errors of processes that work together; here they are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from lightning.fabric import Fabric

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.training.gathering import AnotherProcessFailed, failing_together, gathering

Gather = Callable[[Any], list[Any]]


class Together:
    """Fabric's `broadcast` between threads that stand for processes."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.sent: dict[int, Any] = {}
        self.meeting = threading.Barrier(world_size, timeout=20)

    def of(self, rank: int) -> Fabric:
        together = self

        class Process:
            world_size = together.world_size

            def broadcast(self, value: Any, src: int) -> Any:
                if rank == src:
                    together.sent[src] = value
                together.meeting.wait()
                received = together.sent[src]
                together.meeting.wait()
                return received

        return cast("Fabric", Process())


def ended(*works: Callable[[Gather], object]) -> list[VitrellisError | None]:
    """How each process ends, each with its own work."""
    together = Together(len(works))

    def process(rank: int) -> VitrellisError | None:
        gather = gathering(together.of(rank))
        try:
            with failing_together(gather):
                works[rank](gather)
        except VitrellisError as error:
            return error
        return None

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(process, range(len(works))))


def fails(error: VitrellisError) -> Callable[[Gather], None]:
    def work(gather: Gather) -> None:
        raise error

    return work


def succeeds(gather: Gather) -> list[Any]:
    return gather("a value")  # the other may fail meanwhile


def test_an_error_of_all_is_shared() -> None:
    errors = ended(*(fails(VitrellisError("weights are missing")) for _ in range(3)))
    assert [error.is_shared for error in errors if error is not None] == [True] * 3


@pytest.mark.parametrize("kind", [VitrellisError, UsageError])
def test_an_error_of_one_is_its_own_and_ends_the_others(kind: type[VitrellisError]) -> None:
    first, second = ended(succeeds, fails(kind("a disk is full")))
    assert isinstance(first, AnotherProcessFailed)
    assert str(second) == "a disk is full"
    assert second is not None
    assert not second.is_shared  # so the second prints it
    first, second = ended(fails(kind("a disk is full")), succeeds)
    assert str(first) == "a disk is full"
    assert isinstance(second, AnotherProcessFailed)
    assert second.is_shared  # it has nothing to add


def test_different_errors_are_both_told() -> None:
    first, second = ended(fails(VitrellisError("this")), fails(VitrellisError("that")))
    assert str(first) == "this"
    assert str(second) == "that"
    assert second is not None
    assert not second.is_shared


def test_without_an_error_values_are_gathered() -> None:
    found: list[list[Any]] = []
    assert ended(lambda gather: found.append(gather(1)), lambda gather: gather(2)) == [None, None]
    assert found == [[1, 2]]


def test_a_single_process_keeps_its_error() -> None:
    error = VitrellisError("torn")
    with pytest.raises(VitrellisError, match="torn"), failing_together(lambda value: [value]):
        raise error
    assert not error.is_shared
