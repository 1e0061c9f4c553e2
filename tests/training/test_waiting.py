"""The time that training waits for its batches: counted, logged, and said if it is much."""

from __future__ import annotations

import io
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from rich.console import Console

from tests.training.tiny import tiny
from vitrellis.data.loader import Batch, TrainLoader
from vitrellis.runs.results import EpochRow
from vitrellis.training.display import Display

DELAY = 0.1
STEPS = 3  # 36 images in batches of 12


def delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TrainLoader.epoch

    def slow(self: TrainLoader, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        for batch in own(self, epoch, start_step):
            time.sleep(DELAY)
            yield batch

    monkeypatch.setattr(TrainLoader, "epoch", slow)


def test_the_share_of_the_time_is_that_of_the_delays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delayed(monkeypatch)
    rows = tiny(tmp_path).run.read_metrics()
    begun = 0.0
    for row in rows:
        assert row.waiting is not None
        waited = row.waiting * (row.seconds - begun)
        assert waited >= STEPS * DELAY
        assert 0 < row.waiting < 1
        begun = row.seconds
    assert rows[1].waiting is not None
    without = rows[1].waiting * (rows[1].seconds - rows[0].seconds) - STEPS * DELAY
    assert without < STEPS * DELAY  # each epoch counts its own alone


def shown(waiting: float | None) -> str:
    console = Console(file=io.StringIO(), width=200)
    with Display(console, "recipe", 1, 3) as display:
        display.epoch(EpochRow(0, 3, 1.0, 0.1, 10.0, 1.0, {}, {}, 0.5, waiting=waiting))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_much_waiting_is_said_in_words() -> None:
    assert "34 % of the time" in shown(0.341)
    assert "waiting" not in shown(0.05)
    assert "waiting" not in shown(None)
