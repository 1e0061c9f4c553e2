"""The colours of maps and what they explain, against numpy's eigenvectors and plain sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrellis.analysis.guided_maps import colour_basis, colours, explained


def maps(channels: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(channels, 0, -1).view(1, -1, 1, 1)
    return torch.randn(3, channels, 5, 4, generator=generator) * scales + 2


def test_directions_are_the_leading_eigenvectors_of_the_covariance() -> None:
    basis = colour_basis(maps())
    values = maps().permute(0, 2, 3, 1).reshape(-1, 8).double().numpy()
    _, vectors = np.linalg.eigh(np.cov(values.T))
    for number in range(3):
        mine = basis.directions[:, number].double().numpy()
        assert abs(mine @ vectors[:, -1 - number]) == pytest.approx(1, abs=1e-4)
        assert mine[np.abs(mine).argmax()] > 0


def test_colours_fill_the_range_and_few_values_are_cut_off() -> None:
    shown = colours(maps(), colour_basis(maps()))
    assert shown.shape == (3, 3, 5, 4)
    assert (shown.amin(dim=(0, 2, 3)) == 0).all()
    assert (shown.amax(dim=(0, 2, 3)) == 1).all()
    assert ((shown == 0) | (shown == 1)).float().mean() < 0.1


def test_fewer_than_three_channels() -> None:
    shown = colours(maps(2), colour_basis(maps(2)))
    assert shown[:, 2].unique().tolist() == [0]


def test_explained_is_r_squared() -> None:
    target = maps()
    assert explained(target, target) == 1
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    assert explained(mean, target) == pytest.approx(0, abs=1e-6)
    half = (target + mean) / 2
    assert explained(half, target) == pytest.approx(0.75, abs=1e-6)
    larger = target.repeat_interleave(1, dim=2)
    assert explained(larger, target) == 1
