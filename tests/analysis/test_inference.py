"""Logits of a split: every image once, in order, without leaving a trace in the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrellis.analysis.inference import Predictions, collect_from_all, collect_logits
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.loader import EvalLoader
from vitrellis.data.sources import Split, TensorImages
from vitrellis.errors import VitrellisError


class Summed(nn.Module):
    """Two sums as logits; says in which mode it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.norm = nn.BatchNorm2d(1)
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        summed: Tensor = self.norm(images).sum(dim=(1, 2, 3))[:, None] * self.weight
        return summed


def loader_of(images: Tensor, rank: int = 0, world_size: int = 1) -> EvalLoader:
    labels = torch.arange(len(images)) % 2
    return EvalLoader(
        Split(TensorImages(images), labels),
        transform=EvalTransform(size=(4, 4), mean=[0.0], std=[1.0]),
        batch_size=3,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
        cache=True,
    )


@pytest.mark.parametrize("training", [True, False])
def test_every_image_once_in_eval_mode(training: bool) -> None:
    images = torch.arange(8 * 16, dtype=torch.uint8).view(8, 1, 4, 4)
    model = Summed().train(training)
    ticks: list[tuple[int, int]] = []
    logits, labels = collect_logits(model, loader_of(images), lambda *tick: ticks.append(tick))
    sums = images.double().sum(dim=(1, 2, 3)) / 255 / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(logits, torch.stack([sums, -sums], dim=1).float())
    assert labels.tolist() == [0, 1] * 4
    assert model.modes == [False] * 3
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    assert model.training is training
    assert not logits.requires_grad
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_see_each_image_once(world_size: int) -> None:
    """Of four images, one of five processes has none, and each has the predictions of all."""
    images = torch.arange(4 * 16, dtype=torch.uint8).view(4, 1, 4, 4)
    alone = collect_logits(Summed(), loader_of(images))
    parts = [loader_of(images, rank, world_size) for rank in range(world_size)]
    sent: list[Any] = []

    def ask(rank: int, gathered: list[Any]) -> Predictions:
        def gather(value: Any) -> list[Any]:
            sent.append(value)
            return gathered or [value]

        return collect_from_all(Summed(), parts[rank], gather)

    for rank, part in enumerate(parts):
        if len(part):
            ask(rank, [])
        else:
            with pytest.raises(VitrellisError, match="no images"):
                ask(rank, [])
    everything = list(sent)
    for rank in range(world_size):
        logits, labels, _ = ask(rank, everything)
        torch.testing.assert_close(logits, alone[0])
        assert torch.equal(labels, alone[1])


def test_an_error_of_one_process_is_raised_in_all() -> None:
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    broken = Summed()
    with torch.no_grad():
        broken.weight[0] = torch.nan
    sent: list[Any] = []

    def gather(value: Any) -> list[Any]:
        sent.append(value)
        return sent

    with pytest.raises(VitrellisError) as here:
        collect_from_all(broken, loader_of(images, 1, 2), gather)
    with pytest.raises(VitrellisError) as there:
        collect_from_all(Summed(), loader_of(images, 0, 2), lambda value: [value, *sent])
    assert str(here.value) == str(there.value)
    assert here.value.is_shared
    assert there.value.is_shared
