"""Long tails: against the published generator's figures, and by what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrellis.data.long_tail import LongTail, long_tailed, profile_counts
from vitrellis.data.sources import Source, from_tensors
from vitrellis.data.splits import prepare
from vitrellis.errors import VitrellisError

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "parity" / "long_tail.json").read_text()
)


def names(num_classes: int) -> list[str]:
    return [f"c{k}" for k in range(num_classes)]


def counts(labels: Tensor, chosen: Tensor, num_classes: int) -> list[int]:
    return torch.bincount(labels[chosen], minlength=num_classes).tolist()


def source_of(labels: Tensor) -> Source:
    """A source whose images are their own numbers: pixel 0 the low byte, pixel 1 the high one."""
    numbers = torch.arange(len(labels))
    images = torch.stack([numbers % 256, numbers // 256], dim=1).to(torch.uint8)
    return from_tensors(images.reshape(-1, 1, 1, 2), labels)


def test_sizes_are_the_published_ones() -> None:
    for case in RECORDED["class_counts"]:
        largest = case["balanced_total"] // case["classes"]
        sizes = profile_counts(case["type"], 1 / case["imb_factor"], largest, case["classes"])
        assert sizes == case["counts"], case["name"]
        assert sum(sizes) == case["total"], case["name"]


@pytest.mark.parametrize("case", RECORDED["subset_selection"], ids=lambda c: c["name"])
def test_images_are_the_published_ones_in_their_order(case: dict[str, Any]) -> None:
    rule = case["labels"]
    generator = np.random.Generator(np.random.Philox(key=rule["seed"]))
    labels = torch.from_numpy(generator.permutation(rule["n"]) % rule["classes"])
    settings = LongTail(imbalance_factor=1 / case["imb_factor"])
    chosen = long_tailed(labels, names(rule["classes"]), settings, seed=5)
    assert chosen.tolist() == case["selected_sample_indices_in_order"]
    assert labels[chosen].tolist() == case["targets_in_order"]


def test_cifar_sized_sets_against_a_copy_of_the_generator() -> None:
    labels = torch.from_numpy(np.random.default_rng(3).permutation(50_000) % 100)
    state = np.random.get_state()  # noqa: NPY002  # the generator of the papers is this one
    np.random.seed(0)  # noqa: NPY002
    expected: list[int] = []
    for label in range(100):
        indices = np.where(labels.numpy() == label)[0]
        np.random.shuffle(indices)  # noqa: NPY002
        expected.extend(indices[: int(500 * 0.01 ** (label / 99.0))].tolist())
    np.random.set_state(state)  # noqa: NPY002
    prepared = prepare(
        source_of(labels), train_size=None, val_fraction=0.0, seed=7, long_tail=LongTail()
    )
    assert len(expected) == 10_847
    images = prepared.train.images
    own = [int(i[0, 0, 0]) + 256 * int(i[0, 0, 1]) for i in (images[n] for n in range(len(images)))]
    assert own == expected
    assert prepared.train.labels.tolist() == labels[expected].tolist()


def test_the_global_random_numbers_are_left_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    long_tailed(torch.arange(40) % 2, names(2), LongTail(imbalance_factor=2), seed=0)
    after = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    assert np.array_equal(before, after)


@pytest.mark.parametrize("num_classes", [2, 3, 5, 10])
def test_a_step_has_a_size_for_every_class(num_classes: int) -> None:
    sizes = profile_counts("step", 10, 50, num_classes)
    assert sizes == [50] * (num_classes // 2) + [5] * (num_classes - num_classes // 2)


def test_factor_one_keeps_the_classes_equal() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 4)
    chosen = long_tailed(labels, names(3), LongTail(imbalance_factor=1), seed=0)
    assert counts(labels, chosen, 3) == [3, 3, 3]


def test_a_permutation_moves_sizes_between_classes_and_no_class_its_number() -> None:
    labels = torch.arange(1000) % 10
    expected = profile_counts("exp", 10, 100, 10)
    found = []
    for seed in (0, 0, 1):
        chosen = long_tailed(
            labels, names(10), LongTail(imbalance_factor=10, permute=True), seed=seed
        )
        found.append(counts(labels, chosen, 10))
        assert sorted(found[-1], reverse=True) == expected
    assert found[0] == found[1] != found[2]
    assert expected not in found


def test_every_class_may_become_the_largest() -> None:
    labels = torch.arange(200) % 4
    settings = LongTail(imbalance_factor=5, permute=True)
    first = [
        int(np.argmax(counts(labels, long_tailed(labels, names(4), settings, seed=seed), 4)))
        for seed in range(400)
    ]
    assert min(np.bincount(first)) > 70


def test_the_largest_class_can_be_chosen() -> None:
    labels = torch.tensor([0] * 90 + [1] * 30 + [2] * 20)
    chosen = long_tailed(labels, names(3), LongTail(imbalance_factor=9, largest=90), seed=0)
    assert counts(labels, chosen, 3) == [90, 30, 10]


def test_validation_images_are_balanced_and_set_aside_first() -> None:
    source = source_of(torch.arange(1000) % 5)
    whole = prepare(source, train_size=None, val_fraction=0.2, seed=1)
    tail = prepare(
        source, train_size=None, val_fraction=0.2, seed=1, long_tail=LongTail(imbalance_factor=10)
    )
    assert whole.val is not None
    assert tail.val is not None
    assert tail.val.images.fingerprint() == whole.val.images.fingerprint()
    assert torch.bincount(tail.val.labels).tolist() == [40] * 5
    assert tail.class_counts.tolist() == [160, 89, 50, 28, 16]
    assert tail.class_names == source.class_names


def test_a_class_that_would_keep_nothing() -> None:
    with pytest.raises(VitrellisError, match=r"class 'c1' would keep no image .* at most 20"):
        long_tailed(torch.arange(40) % 2, names(2), LongTail(imbalance_factor=21), seed=0)


def test_a_class_with_too_few_images() -> None:
    labels = torch.tensor([0] * 9 + [1] * 30)
    message = r"class 'c0' has 9 images to train on and should keep 10; .*data\.long_tail\.largest"
    with pytest.raises(VitrellisError, match=message):
        long_tailed(labels, names(2), LongTail(largest=10, imbalance_factor=2), seed=0)
