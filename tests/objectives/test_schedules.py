"""Weights over the epochs, the adaptive one against a slow reading of its definition."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product

import pytest
import torch

from vitrellis.errors import UsageError
from vitrellis.objectives import Adaptive, Constant, OffAfter, Ramp, WeightSchedule


def epochs_on(schedule: Adaptive, losses: list[float]) -> int:
    """The number of epochs for which the weight stays on while the loss takes these values."""
    for epoch, loss in enumerate(losses):
        if schedule(epoch) == 0:
            return epoch
        schedule.end_epoch(epoch, loss)
    return len(losses)


def slow_epochs_on(losses: list[float], w: int, threshold: float, min_epoch: int = 0) -> int:
    """The definition, with epochs counted from 1 and everything computed anew in each."""
    l = dict(enumerate(losses, start=1))  # noqa: E741 - the definition's letter
    for e in range(2, len(losses) + 1):
        d = {1: 0.0}
        for i in range(2, e + 1):
            if i <= w:
                d[i] = (l[i] - sum(l[j] for j in range(1, i)) / (i - 1)) / i
            else:
                d[i] = (l[i] - l[i - w]) / w
        last = [d[i] for i in range(e - min(e, w) + 1, e + 1)]
        if sum(last) / len(last) >= threshold and e >= min_epoch:
            return e
    return len(losses)


def decaying(num_epochs: int, pace: float, noise: float, seed: int) -> list[float]:
    """A guidance loss as it is seen: it falls, ever more slowly, with some noise."""
    jitter = torch.randn(num_epochs, generator=torch.Generator().manual_seed(seed)).tolist()
    return [1 + 3 * math.exp(-epoch / pace) + noise * jitter[epoch] for epoch in range(num_epochs)]


@pytest.mark.parametrize("window", [1, 2, 7, 50])
def test_adaptive_follows_the_definition(window: int) -> None:
    rules = ((-0.02, 0), (-0.002, 0), (-0.02, 20))
    for pace, seed, (threshold, min_epoch) in product((3.0, 20.0, 80.0), range(5), rules):
        losses = decaying(150, pace, noise=0.01, seed=seed)
        schedule = Adaptive(2.5, window=window, threshold=threshold, min_epoch=min_epoch)
        expected = slow_epochs_on(losses, window, threshold, min_epoch)
        assert epochs_on(schedule, losses) == expected, (pace, seed, threshold, min_epoch)


def test_adaptive_stops_late_in_a_loss_that_falls_for_long() -> None:
    stop = epochs_on(Adaptive(2.5, min_epoch=0), decaying(150, 20.0, noise=0.0, seed=0))
    assert 50 < stop < 150  # so that both regimes of the slope are exercised above


def test_adaptive_stays_off_for_good() -> None:
    schedule = Adaptive(2.5, window=3, threshold=-0.02, min_epoch=0)
    assert epochs_on(schedule, [1.0, 1.0]) == 2
    assert [schedule(epoch) for epoch in (0, 1, 2, 3, 1000)] == [2.5, 2.5, 0, 0, 0]


def test_adaptive_never_stops_before_its_first_allowed_epoch() -> None:
    flat = [1.0] * 30
    assert epochs_on(Adaptive(2.5, min_epoch=0), flat) == 2
    assert epochs_on(Adaptive(2.5, min_epoch=20), flat) == 20


def test_adaptive_stops_at_the_threshold_itself() -> None:
    assert epochs_on(Adaptive(2.5, threshold=0.0, min_epoch=0), [1.0] * 30) == 2


def test_a_relative_threshold_does_not_depend_on_the_scale_of_the_loss() -> None:
    losses = decaying(150, 20.0, noise=0.01, seed=0)
    stops = {
        epochs_on(
            Adaptive(2.5, threshold=-0.005, relative=True, min_epoch=0),
            [scale * loss for loss in losses],
        )
        for scale in (1e-4, 1.0, 1e4)
    }
    assert stops == {slow_epochs_on([loss / losses[0] for loss in losses], 50, -0.005)}
    absolute = {
        epochs_on(Adaptive(2.5, threshold=-0.005, min_epoch=0), [scale * loss for loss in losses])
        for scale in (1e-4, 1.0, 1e4)
    }
    assert len(absolute) > 1


def test_adaptive_resumes_exactly() -> None:
    losses = decaying(150, 20.0, noise=0.01, seed=1)
    whole = epochs_on(Adaptive(2.5, min_epoch=0), losses)
    for interrupted in (0, 1, 49, 50, whole - 1, whole):
        first, second = Adaptive(2.5, min_epoch=0), Adaptive(2.5, min_epoch=0)
        for epoch in range(interrupted):
            first.end_epoch(epoch, losses[epoch])
        state = json.loads(json.dumps(first.state_dict()))  # plain values survive any format
        second.load_state_dict(state)
        epoch = interrupted
        while second(epoch):
            second.end_epoch(epoch, losses[epoch])
            epoch += 1
        assert epoch == whole


def test_a_state_is_no_window_into_the_schedule() -> None:
    schedule = Adaptive(2.5, min_epoch=0)
    schedule.end_epoch(0, 1.0)
    state = schedule.state_dict()
    schedule.end_epoch(1, 0.5)
    assert state["losses"] == [1.0]


def test_constant() -> None:
    assert [Constant(2.5)(epoch) for epoch in (0, 1, 299)] == [2.5, 2.5, 2.5]


def test_linear_ramp() -> None:
    ramp = Ramp(1.0, to=3.0, epochs=4)
    assert [ramp(epoch) for epoch in range(7)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0]


def test_cosine_ramp_is_half_a_wave() -> None:
    ramp = Ramp(2.5, to=0.0, epochs=4, shape="cosine")
    half = 2.5 * math.cos(math.pi / 8) ** 2
    expected = [2.5, half, 1.25, 2.5 - half, 0.0, 0.0]
    assert [ramp(epoch) for epoch in range(6)] == pytest.approx(expected)
    assert ramp(4) == 0  # exactly, so that the term is off


def test_off_after_n_epochs() -> None:
    schedule = OffAfter(2.5, epoch=3)
    assert [schedule(epoch) for epoch in range(5)] == [2.5, 2.5, 2.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Constant(2.5), "2.5"),
        (Constant(0.0), "0"),
        (Ramp(2.5, to=0.0, epochs=100), "2.5 → 0 over 100 epochs (linear)"),
        (Ramp(1.0, to=2.0, epochs=5, shape="cosine"), "1 → 2 over 5 epochs (cosine)"),
        (OffAfter(2.5, epoch=100), "2.5, off after 100 epochs"),
        (Adaptive(2.5, min_epoch=0), "2.5, adaptive (window 50, threshold -0.02)"),
        (
            Adaptive(1.0, window=5, threshold=-0.1, min_epoch=20, relative=True),
            "1, adaptive (window 5, threshold -0.1 of the first epoch's loss, at least 20 epochs)",
        ),
    ],
)
def test_words(schedule: WeightSchedule, words: str) -> None:
    assert schedule.describe() == words


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(float("nan")), "nan is not a finite number"),
        (lambda: Ramp(1.0, to=0.0, epochs=0), "at least 1 epoch"),
        (lambda: Ramp(1.0, to=0.0, epochs=5, shape="cosinus"), "Did you mean 'cosine'"),  # type: ignore[arg-type]  # what is tested
        (lambda: OffAfter(1.0, epoch=-1), "not -1"),
        (lambda: Adaptive(1.0, window=0), "window of an adaptive weight is 0"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], WeightSchedule], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
