"""The keep rate of every step, against recorded values of EViT's code and torch's cosine."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.parity.rule import FOLDER
from vitrellis.models import create_model, forward_with_maps
from vitrellis.training.keep_rate import KeepRateSchedule

PUBLISHED: list[dict[str, Any]] = json.loads((FOLDER / "pruning.json").read_text())[
    "keep_rate_schedule"
]


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["name"])
def test_rates_of_the_published_code(case: dict[str, Any]) -> None:
    schedule = KeepRateSchedule(
        keep_rate=case["base_keep_rate"],
        from_epoch=case["warmup_epochs"],
        until_epoch=case["total_epochs"],
        steps_per_epoch=case["iterations_per_epoch"],
    )
    starts = case["keep_rate_at_start_of_epoch"]
    assert [schedule.at(epoch, 0) for epoch in range(len(starts))] == pytest.approx(
        starts, rel=1e-12
    )
    for epoch, step, rate in case["within_epochs"]["rows"]:
        assert schedule.at(epoch, step) == pytest.approx(rate, rel=1e-12), (epoch, step)


@pytest.mark.parametrize(
    ("keep_rate", "from_epoch", "until_epoch", "steps"),
    [(0.7, 10, 110, 13), (0.5, 0, 4, 5), (0.9, 1, 2, 1), (0.3, 3, 7, 50), (1.0, 0, 2, 3)],
)
def test_every_step_falls_along_torchs_cosine(
    keep_rate: float, from_epoch: int, until_epoch: int, steps: int
) -> None:
    """The rate that torch's scheduler anneals from 1 while the keep rate falls."""
    schedule = KeepRateSchedule(keep_rate, from_epoch, until_epoch, steps)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    falling = (until_epoch - from_epoch) * steps
    cosine = CosineAnnealingLR(optimizer, T_max=falling, eta_min=keep_rate)
    for epoch in range(until_epoch + 2):
        for step in range(steps):
            expected = 1.0 if epoch < from_epoch else cosine.get_last_lr()[0]
            assert schedule.at(epoch, step) == pytest.approx(expected, abs=1e-12), (epoch, step)
            if from_epoch <= epoch < until_epoch:
                optimizer.step()
                cosine.step()


def test_a_sudden_change() -> None:
    schedule = KeepRateSchedule(0.6, from_epoch=2, until_epoch=2, steps_per_epoch=3)
    assert [schedule.at(epoch, 0) for epoch in range(4)] == [1.0, 1.0, 0.6, 0.6]
    always = KeepRateSchedule(0.6, from_epoch=0, until_epoch=0, steps_per_epoch=3)
    assert always.at(0, 0) == 0.6
    assert [schedule.has_ended(1), schedule.has_ended(2), always.has_ended(0)] == [0, 1, 1]


def test_levels_are_few_and_the_nearest() -> None:
    smooth = KeepRateSchedule(0.6, from_epoch=1, until_epoch=6, steps_per_epoch=20)
    stepped = KeepRateSchedule(0.6, from_epoch=1, until_epoch=6, steps_per_epoch=20, levels=4)
    places = [(epoch, step) for epoch in range(8) for step in range(20)]
    rates = [stepped.at(*place) for place in places]
    assert sorted(set(rates)) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1.0, 0.6)
    for place, rate in zip(places, rates, strict=True):
        assert abs(rate - smooth.at(*place)) <= 0.05 + 1e-12, place


@pytest.mark.slow  # torch.compile needs ten seconds to load
def test_a_compiled_model_has_a_graph_for_each_rate() -> None:
    torch._dynamo.reset()
    counters.clear()
    model = create_model("vit_micro_patch4_28", num_classes=5, keep_rate=0.5, drop_layers=(1, 2))
    schedule = KeepRateSchedule(0.5, from_epoch=1, until_epoch=3, steps_per_epoch=6, levels=4)
    compiled = torch.compile(forward_with_maps, backend="eager")  # graphs, without their code
    for epoch in range(4):
        for step in range(6):
            schedule.set([model], epoch, step)
            compiled(model.train(), torch.randn(2, 3, 28, 28), [])
    assert counters["stats"]["unique_graphs"] == 5  # all tokens, and four smaller numbers
