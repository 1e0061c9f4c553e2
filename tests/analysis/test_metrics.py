"""Figures against scikit-learn, and calibration against a slow computation of its definition."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.metrics import ClassFigures, Evaluation
from vitrellis.errors import VitrellisError


def predictions(count: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    logits = torch.randn(count, num_classes, generator=generator)
    logits[torch.arange(count), labels] += 1
    return logits, labels


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    return Evaluation.from_logits(logits, labels, [f"c{k}" for k in range(logits.shape[1])])


@pytest.mark.parametrize("num_classes", [2, 3, 12])
def test_against_scikit_learn(num_classes: int) -> None:
    logits, labels = predictions(300, num_classes)
    guess, names = logits.argmax(dim=1), range(num_classes)
    mine = evaluate(logits, labels)
    assert mine.top1 == pytest.approx(sk.accuracy_score(labels, guess))
    assert mine.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, guess))
    assert mine.macro_f1 == pytest.approx(sk.f1_score(labels, guess, average="macro"))
    assert mine.nll == pytest.approx(
        sk.log_loss(labels, logits.double().softmax(dim=1), labels=list(names)), rel=1e-5
    )
    assert mine.confusion.tolist() == sk.confusion_matrix(labels, guess).tolist()
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, guess)
    for k, row in enumerate(mine.per_class()):
        assert row.images == support[k]
        assert row.precision == pytest.approx(precision[k])
        assert row.recall == pytest.approx(recall[k])
        assert row.f1 == pytest.approx(f1[k])


def test_top5_against_scikit_learn() -> None:
    logits, labels = predictions(300, 12)
    expected = sk.top_k_accuracy_score(labels, logits, k=5)
    assert evaluate(logits, labels).top5 == pytest.approx(expected)


def test_ranks_of_equal_logits_are_those_of_a_stable_sort() -> None:
    logits = torch.randint(0, 3, (200, 8), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(200) % 8
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    inside = [int(label) in row[:5] for label, row in zip(labels, order, strict=True)]
    mine = evaluate(logits, labels)
    assert mine.top5 == pytest.approx(np.mean(inside))
    assert mine.top1 == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())
    assert mine.top1 == pytest.approx(mine.confusion.diagonal().sum().item() / 200)


def test_top5_of_three_classes_is_all() -> None:
    assert evaluate(*predictions(30, 3)).top5 == 1


def test_calibration_by_its_definition() -> None:
    logits, labels = predictions(500, 5)
    probabilities = logits.double().softmax(dim=1).numpy()
    confidence, guess = probabilities.max(axis=1), probabilities.argmax(axis=1)
    expected = 0.0
    for low in np.linspace(0, 1, 16)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = (guess == labels.numpy())[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    assert evaluate(logits, labels).calibration_error == pytest.approx(expected, abs=1e-5)


def test_a_class_that_does_not_occur() -> None:
    logits, labels = predictions(40, 4)
    keep = labels != 2
    logits[:, 2] = -10
    mine = evaluate(logits[keep], labels[keep])
    guess = logits[keep].argmax(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.balanced_accuracy_score(labels[keep], guess)
    assert mine.balanced_accuracy == pytest.approx(expected)
    assert mine.per_class()[2] == ClassFigures("c2", 0, None, None, None)
    assert "NaN" not in json.dumps(mine.per_class()[2].to_json())


def test_equal_logits_count_as_the_first_class() -> None:
    mine = evaluate(torch.zeros(4, 3), torch.tensor([0, 0, 1, 2]))
    assert mine.top1 == 0.5


def test_nothing_to_evaluate() -> None:
    with pytest.raises(VitrellisError, match="no predictions"):
        evaluate(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_is_not_right(value: float) -> None:
    logits, labels = predictions(10, 3)
    logits[4] = value
    with pytest.raises(VitrellisError, match="1 of 10 predictions are not finite"):
        evaluate(logits, labels)


def test_json_round_trip() -> None:
    mine = evaluate(*predictions(50, 4))
    values = json.loads(json.dumps(Breakdown(mine, {}, (), None).to_json()))
    assert values["confusion"] == mine.confusion.tolist()
    assert values["per_class"] == [row.to_json() for row in mine.per_class()]
    assert values["images"] == 50
    assert values["nll"] == mine.nll
