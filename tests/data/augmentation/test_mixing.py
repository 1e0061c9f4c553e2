from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from tests.parity.losses import described_input
from vitrellis.data.augmentation.mixing import Mix, cutmix, mixup
from vitrellis.data.randomness import sample_keys

PARITY = Path(__file__).parents[2] / "parity"
CASES: list[dict[str, Any]] = json.loads((PARITY / "mixing.json").read_text())
KEYS = sample_keys(0, 0, torch.arange(3000))


def published(case: dict[str, Any], of: str) -> Tensor:
    with np.load(PARITY / "mixing.npz") as arrays:
        return torch.from_numpy(arrays[case["arrays"][of]])


def pair(batch: int, height: int = 12, width: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of zeros and partners of ones, of two classes."""
    images = torch.zeros(batch, 1, height, width)
    targets = torch.tensor([[1.0, 0.0]]).expand(batch, 2)
    return images, targets, images + 1, targets.flip(1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_mixing_is_as_published(case: dict[str, Any]) -> None:
    images = described_input(case["inputs"]).detach()
    smoothing, num_classes = case["label_smoothing"], case["num_classes"]
    labels = F.one_hot(torch.tensor(case["labels"]), num_classes)
    targets = labels * (1 - smoothing) + smoothing / num_classes
    partner = torch.tensor(case["permutation"])
    lam = torch.full((4,), case["lambda_drawn"])
    if case["kind"] == "mixup":
        mixed, soft = mixup(images, targets, images[partner], targets[partner], lam)
    else:
        centre = torch.tensor([case["box_centre_x_y"]]).expand(4, 2)
        mixed, soft = cutmix(images, targets, images[partner], targets[partner], lam, centre)
    torch.testing.assert_close(mixed, published(case, "inputs"), rtol=0, atol=1e-6)
    torch.testing.assert_close(soft, published(case, "targets"), rtol=0, atol=1e-6)
    assert soft.argmax(dim=1).tolist() == case["accuracy_labels"]


def test_lambda_one_keeps_the_image_and_zero_takes_the_partner() -> None:
    images, targets, others, other_targets = pair(2)
    lam = torch.tensor([1.0, 0.0])
    centre = torch.tensor([[8, 6], [8, 6]])
    for mixed, soft in (
        mixup(images, targets, others, other_targets, lam),
        cutmix(images, targets, others, other_targets, lam, centre),
    ):
        assert torch.equal(mixed, torch.stack([images[0], others[1]]))
        assert torch.equal(soft, torch.stack([targets[0], other_targets[1]]))


def test_cutmix_gives_each_sample_its_own_box_and_its_share() -> None:
    lam = torch.tensor([0.9, 0.5, 0.3])
    centre = torch.tensor([[0, 0], [8, 6], [15, 11]])
    mixed, soft = cutmix(*pair(3), lam, centre)
    torch.testing.assert_close(soft[:, 1], mixed.mean(dim=(1, 2, 3)))
    for row, (x, y) in enumerate(centre.tolist()):
        half_wide, half_tall = (
            int(side * math.sqrt(1 - lam[row].item())) // 2 for side in (16, 12)
        )
        expected = torch.zeros(12, 16)
        expected[max(0, y - half_tall) : y + half_tall, max(0, x - half_wide) : x + half_wide] = 1
        assert torch.equal(mixed[row, 0], expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_shares_have_their_distribution(alpha: float) -> None:
    _, soft = Mix(mixup=alpha)(*pair(3000), KEYS)
    inner = soft[:, 0][(soft[:, 0] > 1e-3) & (soft[:, 0] < 1 - 1e-3)].double().numpy()
    below = stats.beta(alpha, alpha).cdf
    p = stats.kstest(inner, lambda x: (below(x) - below(1e-3)) / (1 - 2 * below(1e-3))).pvalue
    assert p > 1e-4
    assert torch.allclose(soft.sum(dim=1), torch.ones(3000))


def is_cut(mixed: Tensor) -> Tensor:
    return ((mixed == 0) | (mixed == 1)).flatten(1).all(dim=1)


@pytest.mark.parametrize(
    ("settings", "share_of_cutmix"),
    [
        ({"mixup": 0.8}, 0.0),
        ({"cutmix": 1.0}, 1.0),
        ({"mixup": 0.8, "cutmix": 1.0}, 0.5),
        ({"mixup": 0.8, "cutmix": 1.0, "switch": 0.9}, 0.9),
        ({"cutmix": 1.0, "switch": 0.0}, 1.0),
    ],
)
def test_samples_switch_between_the_two(settings: dict[str, float], share_of_cutmix: float) -> None:
    mixed, _ = Mix(**settings)(*pair(3000), KEYS)
    assert abs(is_cut(mixed).double().mean() - share_of_cutmix) < 0.04


def test_samples_are_mixed_as_often_as_asked() -> None:
    share = Mix(mixup=1.0, probability=0.3).is_mixed(KEYS).double().mean()
    assert abs(share - 0.3) < 0.04


def test_a_sample_is_mixed_to_the_same_bits_in_any_company() -> None:
    generator = torch.Generator().manual_seed(0)
    images, others = torch.randn(2, 50, 3, 9, 9, generator=generator)
    targets, other_targets = torch.rand(2, 50, 4, generator=generator)
    mix = Mix(mixup=0.8, cutmix=1.0)
    mixed, soft = mix(images, targets, others, other_targets, KEYS[:50])
    for part in (slice(0, 1), slice(20, 33)):
        own = (images[part], targets[part], others[part], other_targets[part])
        alone, alone_soft = mix(*own, KEYS[:50][part])
        assert torch.equal(alone, mixed[part])
        assert torch.equal(alone_soft, soft[part])


@pytest.mark.parametrize(
    ("settings", "active"),
    [
        ({}, False),
        ({"mixup": 0.8}, True),
        ({"cutmix": 1.0}, True),
        ({"mixup": 0.8, "probability": 0.0}, False),
    ],
)
def test_what_never_mixes_is_not_active(settings: dict[str, float], active: bool) -> None:
    assert Mix(**settings).active is active
