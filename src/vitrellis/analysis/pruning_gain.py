"""What computing with fewer tokens saves: the speed of a model with and without, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import nn

from vitrellis.analysis.cost import Precision, arithmetic, total, wait_for
from vitrellis.models.support.token_reduction import TokenReduction

WORTH_IT = 1.05
"""A gain below this is called none: it is within what measurements vary by."""


FEWEST_ROUNDS = 5
"""The rounds that are measured, however long they take."""


@dataclass(frozen=True)
class Gain:
    """How much faster something is than what it is compared with.

    Attributes:
        before: The images per second without, the median.
        after: The images per second with it, the median.
        ratio: The median of the ratios of neighbouring measurements, which varies less than the
            speeds where other programs are running.
        lowest: The smallest of these ratios.
        highest: The largest.
    """

    before: float
    after: float
    ratio: float
    lowest: float
    highest: float

    def to_json(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class PruningGain:
    """The gain of token reduction.

    Attributes:
        forward: That of the forward pass without gradients.
        step: That of forward and backward pass; None if it was not measured.
    """

    forward: Gain
    step: Gain | None = None

    def verdict(self) -> str:
        """Whether it pays, in a sentence without a full stop."""
        figures = f"{self.forward.ratio:.2f} times as many images/s as with all tokens"
        if self.step is not None:
            figures += f", {self.step.ratio:.2f} times in training"
        if self.forward.ratio < 1:
            return f"pruning costs more than it saves here: {figures}"
        if self.forward.ratio < WORTH_IT:
            return f"pruning saves next to nothing here: {figures}"
        return f"pruning pays: {figures}"

    def to_json(self) -> dict[str, object]:
        """The gains by name, with the verdict."""
        step = None if self.step is None else self.step.to_json()
        return {"forward": self.forward.to_json(), "step": step, "verdict": self.verdict()}


def take_turns(
    before: Callable[[], None],
    after: Callable[[], None],
    *,
    num_images: int,
    device: torch.device,
    seconds: float,
) -> Gain:
    """Measures two functions in turns, after a call of each that does not count.

    On a CPU with a single thread it is processor time, which other programs change less.

    Args:
        before: The function without what is measured.
        after: The function with it.
        num_images: The images that each computes.
        device: The device, whose work is waited for.
        seconds: The time after which no round starts, after the first five.
    """
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    before()
    after()
    rounds: list[tuple[float, float]] = []
    until = time.perf_counter() + seconds
    while len(rounds) < FEWEST_ROUNDS or time.perf_counter() < until:
        rounds.append((_seconds(before, device, clock), _seconds(after, device, clock)))
    ratios = [slow / fast for slow, fast in rounds]
    return Gain(
        before=statistics.median(num_images / slow for slow, _ in rounds),
        after=statistics.median(num_images / fast for _, fast in rounds),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


def measure_pruning(
    model: TokenReduction,
    *,
    shape: tuple[int, int, int],
    batch_size: int,
    precision: Precision = "float32",
    seconds: float = 2.0,
    training: bool = False,
) -> PruningGain:
    """The gain of a model over itself with all tokens.

    Args:
        model: On the device to measure. Its mode is restored.
        shape: `(C, H, W)` of the images.
        batch_size: The number of images in a batch.
        precision: The precision of the arithmetic.
        seconds: The time for each of forward pass and training step.
        training: Whether to measure the training step as well.
    """
    device = next(model.parameters()).device
    images = torch.randn(batch_size, *shape, device=device)
    rates = model.keep_rate
    was_training = model.training

    def forward() -> None:
        with torch.no_grad(), arithmetic(device, precision):
            model(images)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with arithmetic(device, precision):
            loss = total(model(images))
        loss.backward()

    def gain(work: Callable[[], None]) -> Gain:
        def with_all() -> None:
            with all_tokens(model):
                work()

        return take_turns(with_all, work, num_images=batch_size, device=device, seconds=seconds)

    model.eval()
    forward_gain = gain(forward)
    step_gain = None
    if training:
        model.train()
        step_gain = gain(step)
        model.zero_grad(set_to_none=True)
    model.train(was_training)
    assert model.keep_rate == rates
    return PruningGain(forward_gain, step_gain)


@contextmanager
def all_tokens(model: TokenReduction) -> Iterator[nn.Module]:
    """The model with a keep rate of 1 in all layers; its own rates are restored afterwards."""
    rates = model.keep_rate
    model.set_keep_rate(1.0)
    try:
        yield model
    finally:
        model.keep_rate = rates


def _seconds(work: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    wait_for(device)
    started = clock()
    work()
    wait_for(device)
    return clock() - started
