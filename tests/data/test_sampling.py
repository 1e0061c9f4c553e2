"""Which images are drawn: as often as promised, and a function of seed, epoch and slot alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitrellis.data.sampling import ClassSampler, Sampler

COUNTS = torch.tensor([640, 160, 0, 40, 10])
LABELS = torch.arange(5).repeat_interleave(COUNTS)[torch.arange(850) * 333 % 850]
SHARES = {
    "uniform": COUNTS / COUNTS.sum(),
    "class_balanced": (COUNTS > 0) / 4,
    "square_root": COUNTS.sqrt() / COUNTS.sqrt().sum(),
}


def drawn(sampler: Sampler, epochs: int = 1, seed: int = 3) -> Tensor:
    source = ClassSampler(LABELS, sampler)
    return torch.cat([source.epoch_order(seed, epoch)[0] for epoch in range(epochs)])


@pytest.mark.parametrize("sampler", ["uniform", "class_balanced", "square_root"])
def test_classes_are_shown_as_often_as_promised(sampler: Sampler) -> None:
    images = drawn(sampler, epochs=40)
    found = torch.bincount(LABELS[images], minlength=5)
    share = SHARES[sampler]
    expected = len(images) * share
    deviation = (len(images) * share * (1 - share)).sqrt()
    assert ((found - expected).abs() <= 4.5 * deviation).all()  # once in 100,000 for each class


def test_images_of_a_class_are_equally_likely() -> None:
    images = drawn("class_balanced", epochs=40)
    rare = torch.bincount(images, minlength=850)[LABELS == 4]
    expected = 40 * 850 / 4 / 10
    assert ((rare - expected).abs() < 4.5 * expected**0.5).all()


def test_a_slot_depends_on_seed_epoch_and_itself_alone() -> None:
    source = ClassSampler(LABELS, "square_root")
    first, _ = source.epoch_order(seed=3, epoch=0)
    assert torch.equal(first, source.epoch_order(seed=3, epoch=0)[0])
    assert not torch.equal(first, source.epoch_order(seed=4, epoch=0)[0])
    assert not torch.equal(first, source.epoch_order(seed=3, epoch=1)[0])


def test_an_epoch_has_its_length_and_its_views_are_all_different() -> None:
    order, views = ClassSampler(LABELS, "class_balanced").epoch_order(0, 0, repeats=3)
    assert len(order) == len(LABELS)
    assert torch.equal(order[0:849:3], order[2:850:3])
    assert len(set(zip(order.tolist(), views.tolist(), strict=True))) == 850
