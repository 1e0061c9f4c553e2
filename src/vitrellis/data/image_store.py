"""Stored images for the loaders: one tensor on the device, or processes that read files.

Either yields uint8 images at the size at which they are stored, on the device, by their numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitrellis.data.canvas import ProgressCallback, StoredSize, read_stored
from vitrellis.data.source import Images
from vitrellis.errors import VitrellisError

_WORKERS_OUTLIVE_SIGTERM = sys.platform == "linux"  # where the sender of a signal is known


class ImageStore(Protocol):
    """Stored images by their numbers."""

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """uint8 `(b, C, H, W)` for each of the batches of image numbers, `(b,)`."""
        ...


def open_store(
    images: Images,
    *,
    device: torch.device,
    stored: StoredSize,
    cache: bool,
    workers: int,
    progress: ProgressCallback | None,
) -> ImageStore:
    """The store that a loader needs; its arguments are the loader's.

    Raises:
        VitrellisError: If an image cannot be read.
    """
    if cache:
        return CachedImages(read_stored(images, stored, progress).to(device))
    return Stream(images, device=device, stored=stored, workers=workers)


@dataclass(frozen=True)
class CachedImages:
    """All images as one tensor.

    Attributes:
        tensor: uint8 `(N, C, H, W)`.
    """

    tensor: Tensor

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Copies out of the tensor."""
        for indices in batches:
            yield self.tensor.index_select(0, indices.to(self.tensor.device, non_blocking=True))


class Stream:
    """Reads images when they are needed, some batches ahead, in worker processes.

    The processes live on from one `read` to the next, and end with their parent.

    Args:
        images: The images to read.
        device: The device that batches are moved to.
        stored: Brings images to the size of the batches.
        workers: Number of processes; 0 reads in this one.
    """

    def __init__(
        self,
        images: Images,
        *,
        device: torch.device,
        stored: StoredSize,
        workers: int,
    ) -> None:
        self._device = device
        self._schedule = _Schedule()
        with warnings.catch_warnings():
            # the user has said how many; reading may well wait for disks rather than compute
            warnings.filterwarnings("ignore", "This DataLoader will create")
            self._batches: DataLoader[Tensor | _Failure] = DataLoader(
                _StoredImages(images, stored),
                batch_sampler=self._schedule,
                collate_fn=_as_it_is,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda",
                worker_init_fn=_leave_signals_to_parent,
                generator=torch.Generator(),  # it draws a seed; not from what training draws
            )

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Reads the batches in their order.

        Raises:
            VitrellisError: If an image cannot be read, or the system ended a process.
        """
        self._schedule.batches = batches
        with _sigterm_blocked(), _torch_handles_no_deaths():
            images_ahead = iter(self._batches)  # the first time, this starts the workers
        while (images := _next(images_ahead)) is not None:
            if isinstance(images, _Failure):
                raise VitrellisError(images.message)
            yield images.to(self._device, non_blocking=True)


class _Schedule:
    """The batches to read next; it changes from epoch to epoch, while the processes live on."""

    def __init__(self) -> None:
        self.batches: Iterable[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.batches:
            yield indices.tolist()


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker, without the worker's traceback around it."""

    message: str


class _StoredImages(Dataset[Any]):
    """Reads whole batches in a worker."""

    def __init__(self, images: Images, stored: StoredSize) -> None:
        self._images = images
        self._stored = stored

    def __getitem__(self, index: int) -> Tensor:
        return self._stored(self._images[index])

    def __getitems__(self, indices: list[int]) -> Tensor | _Failure:
        try:
            return torch.stack([self[index] for index in indices])
        except VitrellisError as error:
            return _Failure(str(error))


def _next(batches: Iterator[Tensor | _Failure]) -> Tensor | _Failure | None:
    """The next batch, or None after the last."""
    try:
        return next(batches, None)
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise VitrellisError(
            "a process that reads images was ended by the system, most likely for want of memory "
            "(or of /dev/shm in a container). Use fewer machine.workers"
        ) from None


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Starts processes whose every thread, those of imported libraries too, leaves SIGTERM be.

    A worker that blocked it only for itself would still end when the signal met another thread.
    """
    if not _WORKERS_OUTLIVE_SIGTERM:
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing's own start of it would unblock SIGTERM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _torch_handles_no_deaths() -> Iterator[None]:
    """Puts back the SIGCHLD handler that torch replaces when it starts workers.

    Torch's handler raises an error wherever the process happens to be when a worker dies: in the
    middle of a training step, or while another iterator is deleted, where the error is lost.
    Without it, torch notices a dead worker within 5 seconds of waiting for a batch, in `_next`.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:  # only ever in the main thread
        signal.signal(signal.SIGCHLD, before)


def _leave_signals_to_parent(worker: int) -> None:
    """Lets a worker outlive Ctrl-C and SIGTERM where they reach all processes of a job.

    The parent has to save first; then it ends its workers. Its own SIGTERM is therefore obeyed.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if _WORKERS_OUTLIVE_SIGTERM:
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()


def _obey(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
