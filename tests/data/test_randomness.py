from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from vitrellis.data.randomness import (
    beta,
    child_keys,
    epoch_order,
    integers,
    normal,
    sample_keys,
    step_seed,
    uniform,
)

KEYS = sample_keys(7, 3, torch.arange(20_000))
LEAST_P = 1e-4


def splitmix64(state: int) -> tuple[int, int]:
    """The published generator: its next state, and its output."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return state, z ^ (z >> 31)


def p_of_uniform(numbers: Tensor) -> float:
    return float(stats.kstest(numbers.double().numpy().ravel(), "uniform").pvalue)


def test_numbers_are_those_of_splitmix64() -> None:
    keys = KEYS[:5]
    for key, drawn in zip(child_keys(keys, "name").tolist(), uniform(keys, "name", 4), strict=True):
        state, expected = key % 2**64, []
        for _ in range(4):
            state, output = splitmix64(state)
            expected.append((output >> 40) / 2**24)
        assert drawn.tolist() == expected


def test_the_published_first_outputs_of_splitmix64() -> None:
    # for the seed 1234567, as listed with the reference implementation by S. Vigna
    state, outputs = 1234567, []
    for _ in range(3):
        state, output = splitmix64(state)
        outputs.append(output)
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_numbers_are_uniform() -> None:
    drawn = uniform(KEYS, "a", 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert p_of_uniform(drawn) > LEAST_P
    counts = np.bincount((drawn.numpy().ravel() * 1000).astype(int), minlength=1000)
    assert stats.chisquare(counts).pvalue > LEAST_P


@pytest.mark.parametrize(
    "other",
    [
        sample_keys(7, 3, torch.arange(1, 20_001)),
        sample_keys(7, 4, torch.arange(20_000)),
        sample_keys(8, 3, torch.arange(20_000)),
        sample_keys(7, 3, torch.arange(20_000), view=1),
        child_keys(KEYS, "partner"),
    ],
    ids=["image", "epoch", "seed", "view", "child"],
)
def test_neighbours_are_independent(other: Tensor) -> None:
    mine, theirs = uniform(KEYS, "a", 1).squeeze(1), uniform(other, "a", 1).squeeze(1)
    counts, _, _ = np.histogram2d(mine.numpy(), theirs.numpy(), bins=20, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > LEAST_P
    assert p_of_uniform((mine.double() - theirs.double()) % 1) > LEAST_P


def test_streams_and_counters_are_independent() -> None:
    drawn = torch.cat([uniform(KEYS, "a", 3), uniform(KEYS, "b", 3)], dim=1)
    correlations = torch.corrcoef(drawn.double().T) - torch.eye(6)
    assert correlations.abs().max() < 5 / math.sqrt(len(KEYS))


def test_no_two_samples_of_a_run_share_a_key() -> None:
    keys = [sample_keys(0, epoch, torch.arange(5000), view=v) for epoch in range(5) for v in (0, 1)]
    assert len(torch.cat(keys).unique()) == 50_000


def test_views_may_differ_from_sample_to_sample() -> None:
    indices, views = torch.tensor([4, 4, 9]), torch.tensor([0, 2, 1])
    one_by_one = [sample_keys(1, 2, i[None], int(v)) for i, v in zip(indices, views, strict=True)]
    assert torch.equal(sample_keys(1, 2, indices, views), torch.cat(one_by_one))


def test_large_and_negative_seeds_count() -> None:
    firsts = [int(sample_keys(seed, 0, torch.tensor([0]))) for seed in (0, 1, 2**40, -1)]
    assert len(set(firsts)) == 4


@pytest.mark.parametrize("draw", [uniform, normal], ids=["uniform", "normal"])
def test_a_sample_draws_the_same_in_any_company(draw: object) -> None:
    assert callable(draw)
    whole = draw(KEYS[:100], "a", 3)
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(KEYS[shuffled], "a", 3), whole[shuffled])
    assert torch.equal(draw(KEYS[17:18], "a", 3), whole[17:18])
    assert torch.equal(draw(KEYS[:100], "a", 2), whole[:, :2])


def test_integers_are_uniform_below_their_bound() -> None:
    drawn = integers(KEYS, "a", 2, below=7)
    assert set(drawn.unique().tolist()) == set(range(7))
    assert stats.chisquare(torch.bincount(drawn.flatten()).numpy()).pvalue > LEAST_P
    bounds = torch.arange(1, len(KEYS) + 1)[:, None]
    each = integers(KEYS, "a", 1, below=bounds)
    assert bool(((each >= 0) & (each < bounds)).all())
    assert int(integers(KEYS, "a", 1, below=2**31).min()) >= 0


def test_normal_numbers_are_normal() -> None:
    assert stats.kstest(normal(KEYS, "a", 3).numpy().ravel(), "norm").pvalue > LEAST_P


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 2.5])
def test_beta_numbers_have_their_distribution(alpha: float) -> None:
    drawn = beta(KEYS, "a", alpha)
    assert bool(((drawn >= 0) & (drawn <= 1)).all())
    # float32 holds no number between 1 - 2^-25 and 1, where small alphas have much of their mass
    mirrored = torch.minimum(drawn, 1 - drawn).double()
    inner = mirrored[mirrored > 1e-6].numpy()
    below = stats.beta(alpha, alpha).cdf
    share = 2 * (below(0.5) - below(1e-6))
    assert abs(len(inner) / len(drawn) - share) < 5 / math.sqrt(len(drawn))
    folded = stats.kstest(inner, lambda x: 2 * (below(x) - below(1e-6)) / share)
    assert folded.pvalue > LEAST_P
    assert abs((drawn > 0.5).double().mean() - 0.5) < 2 / math.sqrt(len(drawn))


def test_beta_of_one_is_uniform() -> None:
    assert p_of_uniform(beta(KEYS, "a", 1.0)) > LEAST_P


def test_a_sample_draws_the_same_beta_in_any_company() -> None:
    assert torch.equal(beta(KEYS[5:6], "a", 0.8), beta(KEYS[:50], "a", 0.8)[5:6])


def test_step_seeds_differ_and_suit_a_generator() -> None:
    seeds = {
        step_seed(seed, epoch, step, rank)
        for seed in range(4)
        for epoch in range(4)
        for step in range(4)
        for rank in range(4)
    }
    assert len(seeds) == 256
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_shows_every_image_once_in_its_own_order() -> None:
    indices, views = epoch_order(50, seed=0, epoch=0)
    assert sorted(indices.tolist()) == list(range(50))
    assert views.tolist() == [0] * 50
    assert not torch.equal(indices, epoch_order(50, seed=0, epoch=1)[0])
    assert not torch.equal(indices, epoch_order(50, seed=1, epoch=0)[0])
    assert torch.equal(indices, epoch_order(50, seed=0, epoch=0)[0])


@pytest.mark.parametrize("num_images", [1, 2, 50, 51, 300])
def test_repeated_augmentation_shows_fewer_images_more_often(num_images: int) -> None:
    indices, views = epoch_order(num_images, seed=0, epoch=0, repeats=3)
    assert len(indices) == len(views) == num_images
    assert len({*zip(indices.tolist(), views.tolist(), strict=True)}) == num_images
    _, counts = indices.unique(return_counts=True)
    rest = [num_images % 3] if num_images % 3 else []
    assert sorted(counts.tolist()) == sorted([3] * (num_images // 3) + rest)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_draws_the_same() -> None:
    keys = KEYS.cuda()
    assert torch.equal(sample_keys(7, 3, torch.arange(20_000).cuda()), keys)
    assert torch.equal(uniform(keys, "a", 4).cpu(), uniform(KEYS, "a", 4))
    assert torch.equal(integers(keys, "a", 4, below=1000).cpu(), integers(KEYS, "a", 4, below=1000))
    torch.testing.assert_close(normal(keys, "a", 4).cpu(), normal(KEYS, "a", 4))
