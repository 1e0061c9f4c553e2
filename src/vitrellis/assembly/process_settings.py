"""Settings of the whole process that training changes, and gives back to its caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def process_settings_kept() -> Iterator[None]:
    """Restores flush-denormal, the number of threads and torch's random state after the block.

    They are restored after an error as well.
    """
    threads = torch.get_num_threads()
    flushes_denormal = _flushes_denormal()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        torch.set_flush_denormal(flushes_denormal)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _flushes_denormal() -> bool:
    """Torch has no getter for it: the smallest positive number is kept, or becomes zero."""
    smallest = torch.tensor([2.0**-149], dtype=torch.float32)
    return bool((smallest * 1.0 == 0).all())
