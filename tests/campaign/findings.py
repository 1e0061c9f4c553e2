"""What a campaign found."""

from __future__ import annotations

import contextlib
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Findings:
    """The trials of one kind of fault.

    Attributes:
        kind: The kind.
        ends: How often the trials ended in which way.
        wrong: A line for each trial that ended as none should, with what reproduces it.
    """

    kind: str
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {end}" for end, count in self.ends.most_common())
        return f"{self.kind}: {self.ends.total():,} trials: {ends}; {len(self.wrong)} wrong"


class OutOfTimeError(BaseException):
    """A trial took too long. No `except` of the code catches it."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Ends a trial of this process that takes too long.

    Args:
        seconds: Seconds of wall-clock time.

    Raises:
        OutOfTimeError: After them.
    """

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def share_of(items: Sequence[int], share: float, seed: int) -> list[int]:
    """So many of the items, drawn at random, in order."""
    count = max(1, round(share * len(items)))
    return sorted(random.Random(seed).sample(items, min(count, len(items))))
