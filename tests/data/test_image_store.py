from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitrellis.data.canvas import Canvas
from vitrellis.data.image_store import Stream, open_store
from vitrellis.data.source import TensorImages
from vitrellis.errors import VitrellisError

CPU = torch.device("cpu")
BATCHES = [torch.tensor([4, 0]), torch.tensor([2]), torch.tensor([1, 3, 3])]

SLEEPER = """
import multiprocessing, sys, threading, time, torch
from vitrellis.data.source import TensorImages
from vitrellis.data.image_store import Stream
from vitrellis.data.canvas import Canvas

if __name__ == "__mp_main__":  # as libraries do that keep threads of their own
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    images = TensorImages(torch.zeros(64, 1, 4, 4, dtype=torch.uint8))
    stream = Stream(images, device=torch.device("cpu"), stored=Canvas((4, 4)), workers=2)
    batches = stream.read(torch.arange(64).split(1))
    for _ in range(4):  # until both have begun
        next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    sys.stdin.readline()
    print(sum(1 for _ in batches), flush=True)
"""


@dataclass(frozen=True)
class Bad:
    """Five images, of which number 3 cannot be read, or ends its process."""

    fatal: bool = False
    channels: int = 1
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Tensor:
        if index == 3 and self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 3:
            raise VitrellisError("photos/3.jpg: is damaged")
        return torch.full((1, 4, 4), index, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return f"photos/{index}.jpg"

    def fingerprint(self) -> str:
        return ""


def images() -> TensorImages:
    generator = torch.Generator().manual_seed(0)
    return TensorImages(torch.randint(0, 256, (5, 2, 6, 7), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_as_they_were_ordered(cache: bool, workers: int) -> None:
    store = open_store(
        images(),
        decoded=None,
        device=CPU,
        stored=Canvas((6, 7)),
        cache=cache,
        workers=workers,
        progress=None,
    )
    for _ in range(2):
        for stored, indices in zip(store.read(BATCHES), BATCHES, strict=True):
            assert torch.equal(stored, images().tensor[indices])


def test_a_reading_that_was_given_up_does_not_disturb_the_next() -> None:
    stream = Stream(images(), device=CPU, stored=Canvas((6, 7)), workers=2)
    next(stream.read(BATCHES * 10))
    reread = list(stream.read(BATCHES))
    assert [len(stored) for stored in reread] == [2, 1, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_in_one_line(workers: int) -> None:
    stream = Stream(Bad(), device=CPU, stored=Canvas((4, 4)), workers=workers)
    batches = stream.read(BATCHES)
    assert torch.equal(next(batches)[:, 0, 0, 0], torch.tensor([4, 0]))
    with pytest.raises(VitrellisError) as error:
        list(batches)
    assert str(error.value) == "photos/3.jpg: is damaged"


def test_a_worker_that_the_system_ends_is_told_of() -> None:
    stream = Stream(Bad(fatal=True), device=CPU, stored=Canvas((4, 4)), workers=1)
    with pytest.raises(VitrellisError, match=r"ended by the system.*machine\.workers"):
        list(stream.read(BATCHES))


def test_a_dead_worker_interrupts_nothing_else() -> None:
    """Torch's own handler would raise at any line of the process, at its next signal."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = Stream(Bad(fatal=True), device=CPU, stored=Canvas((4, 4)), workers=1).read(BATCHES)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def start_sleeper(tmp_path: Path, method: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that reads with two workers and waits for a line, and the ids of the workers."""
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    process = subprocess.Popen(
        [sys.executable, str(script), method],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes as Linux shows them")
def test_workers_end_with_their_parent_even_if_it_is_killed(tmp_path: Path) -> None:
    process, workers = start_sleeper(tmp_path, "fork")
    assert len(workers) == 2
    assert all(is_alive(pid) for pid in workers)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(is_alive(pid) for pid in workers)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize(("number", "method"), [(signal.SIGINT, "fork"), (signal.SIGTERM, "spawn")])
def test_a_signal_to_all_processes_leaves_the_workers_to_their_parent(
    tmp_path: Path, number: signal.Signals, method: str
) -> None:
    process, workers = start_sleeper(tmp_path, method)
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, number)
    output, _ = process.communicate("read on\n", timeout=60)
    assert output.strip() == "60"
    assert process.returncode == 0
    assert not any(is_alive(pid) for pid in workers)
