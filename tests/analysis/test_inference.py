"""Logits of a split: every image once, in order, without leaving a trace in the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitrellis.analysis.inference import collect_logits
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.loader import EvalLoader
from vitrellis.data.sources import Split, TensorImages


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


def loader_of(images: Tensor) -> EvalLoader:
    labels = torch.arange(len(images)) % 2
    return EvalLoader(
        Split(TensorImages(images), labels),
        transform=EvalTransform(size=(4, 4), mean=[0.0], std=[1.0]),
        batch_size=3,
        device=torch.device("cpu"),
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
