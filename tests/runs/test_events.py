"""TensorBoard's events: read by TensorBoard, and whole whatever happens to the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from vitrellis.runs.events import Events


def read(folder: Path) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_tensorboard_reads_them(tmp_path: Path) -> None:
    events = Events(tmp_path / "tensorboard")
    for step in range(3):
        events.write({"loss": 0.5 * step, "parts/kd": 1.0}, step)
    assert read(tmp_path / "tensorboard") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_a_full_disk_leaves_no_half_event(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.write({"loss": 1.0}, 1)

    def full(self: Any, data: bytes) -> None:
        self._writer.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch.object(RecordWriter, "write", full), pytest.raises(OSError, match="No space"):
        events.write({"loss": 2.0}, 2)
    events.write({"loss": 3.0}, 3)
    assert read(tmp_path) == [(1, 1.0), (3, 3.0)]
