"""Figures as TensorBoard events, one file for each process that trains.

The file is written at once and closed again, so that a full disk is noticed where it can be told.
torch's writer has a thread of its own for it, which dies there with a traceback.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path


class Events:
    """Appends figures to an events file, which the first of them makes.

    Args:
        folder: The folder that TensorBoard is given.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{platform.node()}.{os.getpid()}"
        self.file = folder / name

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds the figures of a step.

        Args:
            scalars: The figures by name.
            step: The number of optimizer steps so far.

        Raises:
            OSError: If they cannot be written; the file is then left as it was.
        """
        # loaded here, because commands that read a run do without it
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        events = [Event(wall_time=now, step=step, summary=Summary(value=values))]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        before = self.file.stat().st_size if self.file.exists() else 0
        if before == 0:
            events.insert(0, Event(wall_time=now, file_version="brain.Event:2"))
        try:
            with self.file.open("ab") as file:
                writer = RecordWriter(file)
                for event in events:
                    writer.write(event.SerializeToString())
        except OSError:
            os.truncate(self.file, before)  # half an event would hide those after it
            raise
