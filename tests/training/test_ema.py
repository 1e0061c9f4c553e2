"""The moving average of the weights: its warm-up, short runs, and the plain weights beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.cli.command import run_here
from tests.training.command import FEW_IMAGES, TINY, run
from tests.training.tiny import guided_weights, tiny
from vitrellis.assembly.launch import Finished
from vitrellis.runs.directory import RunDirectory

NAME = "head.bias"
DECAY = 0.9998


@contextmanager
def biases() -> Iterator[list[Tensor]]:
    """The head's biases after every optimizer step."""
    seen: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for name, value in zip(group["param_names"], group["params"], strict=True):
                if name == f"student.{NAME}":
                    seen.append(value.detach().double().clone())

    handle = register_optimizer_step_post_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def exported(finished: Finished, folder: str) -> dict[str, Tensor]:
    return load_file(finished.run.path / folder / "model.safetensors")


@pytest.mark.parametrize("decay", [0.5, DECAY])
def test_the_average_is_that_of_the_published_formula(tmp_path: Path, decay: float) -> None:
    """Crowson's: min(decay, 1 - (1 + t)^(-2/3)) with t updates before this one, as timm has it."""
    with biases() as seen:
        finished = tiny(tmp_path, training__ema=decay, training__epochs=3)
    assert len(seen) == 9
    average = torch.zeros_like(seen[0])
    for t, value in enumerate(seen):
        share = min(decay, 1 - (1 + t) ** (-2 / 3))
        average = share * average + (1 - share) * value
    mine = exported(finished, "last")[NAME].double()
    torch.testing.assert_close(mine, average, rtol=1e-4, atol=1e-7)


def test_without_warm_up_the_decay_is_constant(tmp_path: Path) -> None:
    with biases() as seen:
        finished = tiny(tmp_path, training__ema=0.9, training__ema_warmup=False)
    average = torch.zeros_like(seen[0])  # biases of heads begin at zero
    for value in seen:
        average = 0.9 * average + 0.1 * value
    mine = exported(finished, "last")[NAME].double()
    torch.testing.assert_close(mine, average, rtol=1e-4, atol=1e-7)


def test_a_short_run_is_averaged_over_what_it_learned(tmp_path: Path) -> None:
    """60 steps at a decay for thousands of steps; the plain weights are kept beside the average."""
    finished = tiny(tmp_path, training__ema=DECAY, training__epochs=20)
    learned = finished.results.without_ema
    assert learned is not None
    assert (learned.val_top1 or 0) > 0.8
    assert (finished.results.best.val_top1 or 0) > 0.8
    weights = guided_weights(finished)
    plain, average = exported(finished, "last-without-ema"), exported(finished, "last")
    assert all(torch.equal(value, weights[f"student.{name}"]) for name, value in plain.items())
    assert any(not torch.equal(value, average[name]) for name, value in plain.items())
    assert finished.run.best_model_without_ema.exists()
    cold = tiny(tmp_path, "cold", training__ema=DECAY, training__ema_warmup=False)
    for name, value in exported(cold, "last").items():  # 6 steps leave 99.9 % of it
        initial = exported(cold, "last-without-ema")[name]
        assert (value - initial).abs().max() <= 1.01 * 6 * 1e-3  # AdamW's steps are at most lr


def test_the_weights_themselves_can_be_evaluated(tmp_path: Path) -> None:
    out = "runs/[/x]"  # which rich would take for markup
    words = ["train", "demo-alone", *(word for word in TINY if "teacher" not in word)]
    words = [word for word in words if "locality" not in word]
    words += [FEW_IMAGES, "training.ema=0.9998", "--out", out]
    said = run(*words, "training.ema_warmup=false", cwd=tmp_path)
    steps = RunDirectory(tmp_path / out).read_metrics()[-1].step
    assert f"{100 * 0.9998**steps:.1f} % of the average are still the initial weights" in said
    assert "last, without EMA  epoch 2 of 2" in said
    averaged, plain = (
        run_here("eval", out, "--weights", "last", *more, cwd=tmp_path).out
        for more in ([], ["--without-ema"])
    )
    assert "last checkpoint without EMA" in plain
    assert averaged.splitlines()[1:] != plain.splitlines()[1:]
    stored = RunDirectory(tmp_path / out).read_results().without_ema
    assert stored is not None
    assert stored.test is not None
    assert f"{100 * stored.test.top1:.2f} %" in plain
    finished = tiny(tmp_path)
    assert finished.results.without_ema is None
    err = run_here("eval", str(finished.run.path), "--without-ema", code=2).err
    assert "model-without-ema" in err
