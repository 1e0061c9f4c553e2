from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch

from vitrellis.data.augmentation.threads import (
    MOST_THREADS,
    in_threads,
    one_thread,
    pool_of_threads,
)

CPU = torch.device("cpu")


def add_one(images: torch.Tensor) -> None:
    images.add_(1)


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 16])
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 100])
def test_shares_cover_the_batch_once(batch: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    seen = torch.zeros(batch)

    def work(rows: slice) -> None:
        seen[rows] += 1

    in_threads(batch, CPU, work)
    assert bool((seen == 1).all())
    assert torch.get_num_threads() == num_threads


def test_threads_share_those_of_torch() -> None:
    torch.set_num_threads(2 * MOST_THREADS)
    counts, names = [], set()

    def work(rows: slice) -> None:
        counts.append(torch.get_num_threads())
        names.add(threading.current_thread().name)

    in_threads(64, CPU, work)
    assert counts == [2] * MOST_THREADS
    assert threading.current_thread().name not in names
    later: list[int] = []  # threads that others start have all of them again
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2 * MOST_THREADS]


def test_one_thread_and_other_devices_work_here() -> None:
    here = []
    torch.set_num_threads(2)
    in_threads(5, torch.device("meta"), lambda rows: here.append((rows, threading.get_ident())))
    torch.set_num_threads(1)
    in_threads(5, CPU, lambda rows: here.append((rows, threading.get_ident())))
    assert here == [(slice(0, 5), threading.get_ident())] * 2


def test_the_inference_mode_is_that_of_the_caller() -> None:
    torch.set_num_threads(2)
    with torch.inference_mode():
        images = torch.zeros(4)
        in_threads(4, CPU, lambda rows: add_one(images[rows]))  # refused outside of that mode
    assert images.tolist() == [1.0] * 4


def test_an_error_in_a_thread_is_raised_here() -> None:
    torch.set_num_threads(2)

    def work(rows: slice) -> None:
        raise ValueError(f"rows from {rows.start}")

    with pytest.raises(ValueError, match="rows from 0"):
        in_threads(4, CPU, work)


def _add_in_a_fork(result: torch.Tensor) -> None:
    torch.set_num_threads(2)
    in_threads(4, CPU, lambda rows: add_one(result[rows]))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="there are no forks here"
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_starts_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    in_threads(4, CPU, lambda rows: None)
    result = torch.zeros(4).share_memory_()
    process = multiprocessing.get_context("fork").Process(target=_add_in_a_fork, args=(result,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert result.tolist() == [1.0] * 4


def test_one_thread_is_the_callers_alone_for_a_while() -> None:
    torch.set_num_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="on purpose"), one_thread():
        raise ValueError("on purpose")
    assert torch.get_num_threads() == 3


def test_threads_of_a_pool_compute_alone_and_end_with_it() -> None:
    torch.set_num_threads(3)
    with pool_of_threads(4, "alone") as pool:
        counts = list(pool.map(lambda _: torch.get_num_threads(), range(40)))
        assert torch.get_num_threads() == 3
    assert counts == [1] * 40
    assert not any(thread.name.startswith("alone") for thread in threading.enumerate())
