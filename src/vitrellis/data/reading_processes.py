"""Processes that read batches ahead of their use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vitrellis.data.main_guard import check_main_guard
from vitrellis.errors import VitrellisError

_WORKERS_OUTLIVE_SIGTERM = sys.platform == "linux"  # where the sender of a signal is known

Request = TypeVar("Request")
Result = TypeVar("Result")


class ReadingProcesses(Generic[Request, Result]):
    """Answers requests in worker processes, some of them ahead, in their order.

    The processes live on from one `read` to the next, and end with their parent.

    Args:
        answer: Answers one request. It is copied to the processes, and so are the requests.
        workers: Number of processes; 0 answers in this one.
        pinned: Whether tensors come in memory from which a GPU copies fast.
    """

    def __init__(self, answer: Callable[[Request], Result], *, workers: int, pinned: bool) -> None:
        if workers > 0:
            check_main_guard()
        self._schedule: _Schedule[Request] = _Schedule()
        with warnings.catch_warnings():
            # the user has said how many; reading may well wait for disks rather than compute
            warnings.filterwarnings("ignore", "This DataLoader will create")
            self._batches: DataLoader[Result | _Failure] = DataLoader(
                _Answers(answer),
                batch_sampler=self._schedule,  # type: ignore[arg-type]
                collate_fn=_as_it_is,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=pinned,
                worker_init_fn=_leave_signals_to_parent,
                generator=torch.Generator(),  # it draws a seed; not from what training draws
            )

    def read(self, requests: Iterable[Request]) -> Iterator[Result]:
        """The answers.

        Raises:
            VitrellisError: If an image cannot be read, or the system ended a process.
        """
        self._schedule.requests = requests
        with _sigterm_blocked(), _torch_handles_no_deaths():
            ahead = iter(self._batches)  # the first time, this starts the workers
        while (answer := _next(ahead)) is not None:
            if isinstance(answer, _Failure):
                raise VitrellisError(answer.message)
            yield answer


class _Schedule(Generic[Request]):
    """The requests to answer next; they change with the epoch, while the processes live on."""

    def __init__(self) -> None:
        self.requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        yield from self.requests


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker, without the worker's traceback around it."""

    message: str


class _Answers(Dataset[Any], Generic[Request, Result]):
    """Answers whole requests in a worker."""

    def __init__(self, answer: Callable[[Request], Result]) -> None:
        self._answer = answer

    def __getitem__(self, request: Request) -> Result:
        return self._answer(request)

    def __getitems__(self, request: Request) -> Result | _Failure:
        try:
            return self[request]
        except VitrellisError as error:
            return _Failure(str(error))


def _next(answers: Iterator[Result | _Failure]) -> Result | _Failure | None:
    """The next answer, or None after the last."""
    try:
        return next(answers, None)
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
    for name in ("SIGUSR1", "SIGBREAK"):  # Slurm and Windows send them to all processes of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if _WORKERS_OUTLIVE_SIGTERM:
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()


def _obey(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
