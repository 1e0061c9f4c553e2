"""Head, mid and tail: against the published borders and figures, and scikit-learn."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from tests.parity.rule import reference_input
from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.groups import GROUPS, PUBLISHED_CUTS, by_count, by_rank, groupings
from vitrellis.analysis.inference import Predictions

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "parity" / "long_tail.json").read_text()
)
COUNTS = {case["name"]: case["counts"] for case in RECORDED["class_counts"]}
SOURCES = {
    "CIFAR10LT": "cifar10",
    "CIFAR100LT": "cifar100",
    "IMAGENETLT": "imagenet-lt",
    "INAT18": "inaturalist-2018",
}


def predictions_of(case: dict[str, Any]) -> Predictions:
    """The seeded logits of both heads, by the rule of the recorded case."""
    num_classes, num_images = case["classes"], case["samples"]
    seeds = np.random.Generator(np.random.Philox(key=case["targets"]["seed"]))
    labels = torch.from_numpy(seeds.integers(0, num_classes, num_images))
    one_hot = torch.nn.functional.one_hot(labels, num_classes).float()
    slope = torch.linspace(1, -1, num_classes)
    cls, dist = (reference_input(**case[f"{n}_logits"]["input"]) for n in ("cls", "dist"))
    cls, dist = cls + 2.0 * one_hot + slope, dist + 1.5 * one_hot - slope
    return Predictions((cls + dist) / 2, labels, {"class": cls, "distillation": dist})


def confusion_of(recalls: Sequence[float], images: Sequence[int]) -> Tensor:
    """A matrix with the given share of each class right, and the others taken for the next."""
    matrix = torch.zeros(len(images), len(images), dtype=torch.int64)
    for k, (recall, count) in enumerate(zip(recalls, images, strict=True)):
        matrix[k, k] = round(recall * count)
        matrix[k, (k + 1) % len(images)] += count - round(recall * count)
    return matrix


@pytest.mark.parametrize("case", RECORDED["head_mid_tail"], ids=lambda c: c["data_set"])
def test_borders_by_rank_are_the_published_ones(case: dict[str, Any]) -> None:
    cuts = PUBLISHED_CUTS[SOURCES[case["data_set"]]]
    assert list(cuts) == case["categories"]
    falling = range(case["classes"] + 5, 5, -1)
    grouping = by_rank(falling, cuts)
    assert [len(members) for members in grouping.members] == case["sizes"]
    for name, members in zip(GROUPS, grouping.members, strict=True):
        first, last = map(int, case[name].split(".."))
        assert members == tuple(range(first, last + 1))


@pytest.mark.parametrize("case", RECORDED["evaluation"], ids=lambda c: c["name"])
def test_figures_are_those_of_the_published_evaluation(case: dict[str, Any]) -> None:
    num_classes, (first, second) = case["classes"], case["categories"]
    grouping = by_rank(range(num_classes, 0, -1), (first, second))
    breakdown = Breakdown.of(
        predictions_of(case),
        [str(k) for k in range(num_classes)],
        class_counts=None,
        groupings=(grouping,),
    )
    figures: dict[str, Any] = breakdown.to_json()
    for ours, theirs in {"class": "cls", "distillation": "dist", "average": "avg"}.items():
        head = figures["heads"][ours]
        for key, name in {"top1": "acc1", "top5": "acc5"}.items():
            assert 100 * head[key] == pytest.approx(case["result"][f"{name}_{theirs}"], abs=1e-4)
        for group, name in {"head": "head", "mid": "med", "tail": "tail"}.items():
            accuracy = 100 * head["groups"][0][group]["accuracy"]
            assert accuracy == pytest.approx(case["result"][f"{name}_acc_{theirs}"], abs=1e-4)
    assert figures["groups"] == figures["heads"]["average"]["groups"]
    assert figures["top1"] == figures["heads"]["average"]["top1"]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("exp_if100", [35, 35, 30]), ("exp_if50", [41, 41, 18]), ("exp_if10", [69, 31, 0])],
)
def test_sizes_by_count_of_cifar_100_lt(name: str, sizes: list[int]) -> None:
    grouping = by_count(COUNTS[f"cifar100_{name}"])
    assert [len(members) for members in grouping.members] == sizes


def test_the_borders_of_counts() -> None:
    grouping = by_count([101, 100, 20, 19])
    assert grouping.members == ((0,), (1, 2), (3,))
    assert grouping.meanings == ("more than 100", "20 to 100", "fewer than 20")
    assert by_count([101, 100, 20, 19], (50, 20)).members == ((0, 1), (2,), (3,))


def test_of_equal_counts_the_lower_number_is_first() -> None:
    grouping = by_rank([5, 9, 5, 9, 5], (2, 3))
    assert grouping.members == ((1, 3), (0,), (2, 4))


def test_means_over_classes_against_scikit_learn() -> None:
    labels = torch.randint(0, 8, (300,), generator=torch.Generator().manual_seed(0))
    guess = torch.randint(0, 8, (300,), generator=torch.Generator().manual_seed(1))
    guess[::2] = labels[::2]
    confusion = torch.from_numpy(sk.confusion_matrix(labels, guess))
    members = ([0, 5], [1, 2, 7], [3, 4, 6])
    counts = [200, 50, 50, 5, 5, 200, 5, 50]
    for classes, accuracy in zip(members, by_count(counts).accuracies(confusion), strict=True):
        inside = np.isin(labels, classes)
        expected = sk.recall_score(labels, guess, labels=classes, average="macro")
        assert accuracy == pytest.approx(expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # predictions of classes outside the group
            expected = sk.balanced_accuracy_score(labels[inside], guess[inside])
        assert accuracy == pytest.approx(expected)


def test_groups_make_up_the_balanced_accuracy() -> None:
    confusion = confusion_of([0.9, 0.5, 0.2, 0.1], [10, 20, 10, 40])
    found = by_rank([9, 5, 3, 1], (1, 3)).accuracies(confusion)
    assert found == pytest.approx((0.9, 0.35, 0.1))


def test_classes_that_do_not_occur_are_left_out() -> None:
    confusion = confusion_of([0.5, 0, 0.25, 0], [10, 0, 4, 0])
    found = by_count([200, 200, 50, 5]).accuracies(confusion)
    assert found == (0.5, 0.25, None)


def test_balanced_sets_have_no_groups() -> None:
    assert groupings([500] * 100, "cifar100") == ()
    assert groupings([9, 10, 9], "folder") == ()
    # 150 images of 100 classes, as equal as can be: the cuts would tell nothing apart
    assert groupings([2, 1] * 50, "cifar100") == ()
    assert groupings([3, 1] * 50, "cifar100") != ()


def test_groups_that_hold_all_classes_say_nothing() -> None:
    assert groupings([1000, 300], "folder") == ()
    assert [g.by for g in groupings([1000, 30], "folder")] == ["training images"]


def test_published_cuts_are_shown_where_they_differ() -> None:
    found = groupings(COUNTS["cifar100_exp_if100"], "cifar100")
    assert [g.by for g in found] == ["training images", "rank, as published"]
    assert [len(members) for members in found[1].members] == [36, 35, 29]
    same = [500] * 3 + [50] * 4 + [5] * 3
    assert [g.by for g in groupings(same, "cifar10")] == ["training images"]


def test_json_of_groups() -> None:
    figures: dict[str, Any] = by_count([200, 5]).to_json(confusion_of([0.5, 0], [4, 4]))
    assert figures["head"] == {"meaning": "more than 100", "classes": 1, "accuracy": 0.5}
    assert figures["mid"] == {"meaning": "20 to 100", "classes": 0, "accuracy": None}
