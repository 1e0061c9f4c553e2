"""Shares of a batch in threads of their own, on a CPU.

torch divides every single operation among its threads, which wait for each other after each one.
Augmentation consists of many short operations: there, threads that take whole images are faster,
and go on when another program holds up one of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise

import torch

MOST_THREADS = 8
"""More would wait for Python's interpreter lock; each of them gets several of torch's instead."""


def in_threads(batch: int, device: torch.device, work: Callable[[slice], None]) -> None:
    """Lets threads work on shares of a batch, as many as `torch.get_num_threads()` has.

    Args:
        batch: Number of images.
        device: Where they are; only on a CPU is the batch shared.
        work: Changes one share in place. It is called in other threads, with the inference mode
            of this one.
    """
    num_threads = min(torch.get_num_threads(), MOST_THREADS)
    if batch < 2 or num_threads == 1 or device.type != "cpu":
        work(slice(0, batch))
        return
    inference = torch.is_inference_mode_enabled()

    def work_alike(share: slice) -> None:
        with torch.inference_mode(inference):
            work(share)

    ends = [batch * number // num_threads for number in range(num_threads + 1)]
    shares = [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]
    list(_pool(num_threads, torch.get_num_threads()).map(work_alike, shares))


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute in this thread alone: to divide short operations costs more than it saves.

    So it is with a batch of 64 images of 32 pixels, which takes two threads four times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pool_of_threads(num_threads: int, name: str, torch_threads: int = 1) -> ThreadPoolExecutor:
    """Threads that run at once, in each of which torch divides its work among so many.

    Args:
        num_threads: Number of threads.
        name: How their names begin.
        torch_threads: Number of torch's threads in each of them.
    """
    all_threads = torch.get_num_threads()
    started = threading.Barrier(num_threads)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread takes the number of the process
        torch.set_num_threads(torch_threads)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=start)
    list(pool.map(lambda _: None, range(num_threads)))
    torch.set_num_threads(all_threads)  # threads that start later take the last number that was set
    return pool


@lru_cache(maxsize=1)
def _pool(num_threads: int, all_threads: int) -> ThreadPoolExecutor:
    """So many threads, among which torch's are shared."""
    return pool_of_threads(num_threads, "augmentation", max(1, all_threads // num_threads))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of these threads
