"""Parametric contrastive learning against its definition, written with loops in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives import Objective, PaCo, Signals, paco_loss, soft_cross_entropy

SETTINGS = [
    {"temperature": 0.05, "alpha": 0.01, "beta": 1.0, "gamma": 1.0},
    {"temperature": 0.2, "alpha": 0.05, "beta": 1.0, "gamma": 1.0},
    {"temperature": 0.7, "alpha": 0.5, "beta": 0.3, "gamma": 0.4},
    {"temperature": 0.7, "alpha": 0.0, "beta": 2.0, "gamma": 0.0},
]


def example(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def directions(count: int) -> Tensor:
        drawn = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1).to(dtype)

    return {
        "queries": directions(6),
        "keys": directions(6),
        "queue": directions(9),
        "queue_labels": torch.tensor([0, 3, -1, 1, -1, 2, 0, 0, 3]),
        "adjusted_logits": torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype),
        "labels": torch.tensor([0, 0, 1, 2, 0, 3]),
    }


def by_loops(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    queue_labels: Tensor,
    adjusted_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    gamma: float,
) -> float:
    """Equation 4, each positive's fraction by itself."""
    losses = []
    for i, label in enumerate(labels.tolist()):
        others = [(queries[j], int(labels[j])) for j in range(len(labels)) if j != i]
        others += [(keys[j], int(labels[j])) for j in range(len(labels))]
        others += [(queue[j], int(queue_labels[j])) for j in range(len(queue))]
        centre = math.exp(adjusted_logits[i, label])
        sizes = [(math.exp(queries[i] @ other / temperature), c) for other, c in others]
        whole = sum(math.exp(logit) for logit in adjusted_logits[i])
        whole += gamma * sum(size for size, _ in sizes)
        terms = [(beta, -math.log(centre / whole))]
        terms += [(alpha, -math.log(size / whole)) for size, c in sizes if c == label]
        losses.append(sum(w * value for w, value in terms) / sum(w for w, _ in terms))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("settings", SETTINGS)
def test_definition(settings: dict[str, Any]) -> None:
    value = paco_loss(**example(), **settings)
    assert value.item() == pytest.approx(by_loops(**example(), **settings), rel=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradient_by_finite_differences(settings: dict[str, Any]) -> None:
    inputs = example()
    leaves = (inputs.pop("queries"), inputs.pop("adjusted_logits"))

    def loss(queries: Tensor, adjusted_logits: Tensor) -> Tensor:
        return paco_loss(queries=queries, adjusted_logits=adjusted_logits, **inputs, **settings)

    assert torch.autograd.gradcheck(loss, tuple(leaf.requires_grad_() for leaf in leaves))


def test_keys_and_queue_get_no_gradient() -> None:
    inputs = example()
    for name in ("queries", "keys", "queue"):
        inputs[name].requires_grad_()
    paco_loss(**inputs).backward()
    assert inputs["queries"].grad is not None
    assert inputs["keys"].grad is None
    assert inputs["queue"].grad is None


def test_without_others_it_is_cross_entropy() -> None:
    inputs = example()
    value = paco_loss(**inputs, alpha=0, gamma=0)
    targets = F.one_hot(inputs["labels"], 4).double()
    torch.testing.assert_close(value, soft_cross_entropy(inputs["adjusted_logits"], targets))


def test_large_logits_and_low_temperatures_in_float32() -> None:
    inputs = example(torch.float32)
    inputs["adjusted_logits"] *= 100
    value = paco_loss(**inputs, temperature=0.005)
    doubles = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    expected = paco_loss(**doubles, temperature=0.005)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


class Tiny(nn.Module):
    """A convolution with a batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.classifier = nn.Linear(5, 3)


def maps_of(model: nn.Module, images: Tensor, blocks: Sequence[int]) -> tuple[Any, list[Tensor]]:
    assert isinstance(model, Tiny)
    assert list(blocks) == [0]
    maps = model.block(images)
    return model.classifier(maps.mean(dim=(2, 3))), [maps]


def term(student: Tiny, **settings: Any) -> PaCo:
    chosen: dict[str, Any] = {"dimension": 4, "queue": 7, "momentum": 0.75} | settings
    counts = torch.tensor([90, 9, 1])
    return PaCo(
        student=student, block=0, channels=5, class_counts=counts, maps_of=maps_of, **chosen
    )


def signals(student: Tiny, count: int = 4, seed: int = 0) -> Signals:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, 2, 6, 6, generator=generator)
    logits, (maps,) = maps_of(student, first, [0])
    targets = F.one_hot(torch.arange(count) % 3, 3).float()
    return Signals(logits=logits, targets=targets, student_maps={0: maps}, second_view=second)


def test_term_is_the_loss_of_what_it_made() -> None:
    torch.manual_seed(0)
    student = Tiny()
    paco = term(student, temperature=0.3, alpha=0.2)
    seen = signals(student)
    queue, queue_labels = paco.queue.clone(), paco.queue_labels.clone()
    value = paco(seen)
    expected = paco_loss(
        F.normalize(paco.projection(seen.student_maps[0].mean(dim=(2, 3)))),
        paco.queue[:4],
        queue,
        queue_labels,
        seen.logits + torch.tensor([0.9, 0.09, 0.01]).log(),
        torch.tensor([0, 1, 2, 0]),
        temperature=0.3,
        alpha=0.2,
    )
    torch.testing.assert_close(value, expected)


def test_only_the_student_and_the_perceptron_learn() -> None:
    torch.manual_seed(0)
    student = Tiny()
    paco = term(student)
    paco(signals(student)).backward()
    learned = {name for name, p in paco.named_parameters() if p.requires_grad}
    assert learned == {f"projection.{name}" for name, _ in paco.projection.named_parameters()}
    assert all(p.grad is not None for p in [*paco.projection.parameters(), *student.parameters()])
    assert all(p.grad is None for p in paco.key_student.parameters())


def test_queue_begins_with_directions_of_no_class_and_forgets_the_oldest() -> None:
    torch.manual_seed(0)
    student = Tiny()
    paco = term(student)
    torch.testing.assert_close(paco.queue.norm(dim=1), torch.ones(7))
    assert paco.queue_labels.tolist() == [-1] * 7
    first = paco.queue.clone()
    paco(signals(student, seed=1))
    assert paco.queue_labels.tolist() == [0, 1, 2, 0, -1, -1, -1]
    assert torch.equal(paco.queue[4:], first[4:])
    paco(signals(student, seed=2))
    assert paco.queue_labels.tolist() == [0, 1, 2, 0, 0, 1, 2]
    paco(signals(student, count=9, seed=3))  # of more than find room, the last
    assert sorted(paco.queue_labels.tolist()) == [0, 0, 1, 1, 2, 2, 2]


def test_copies_follow_at_the_given_pace_and_keep_their_statistics() -> None:
    torch.manual_seed(0)
    student = Tiny()
    paco = term(student)
    before = [p.clone() for p in paco.key_student.parameters()]
    statistics = [b.clone() for b in paco.key_student.buffers()]
    projected = paco.key_projection.get_parameter("0.weight").clone()
    with torch.no_grad():
        for parameter in [*student.parameters(), *paco.projection.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    Objective([paco]).end_step(student)
    for old, mine, theirs in zip(
        before, paco.key_student.parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, 0.75 * old + 0.25 * theirs)
    torch.testing.assert_close(
        paco.key_projection.get_parameter("0.weight"),
        0.75 * projected + 0.25 * paco.projection.get_parameter("0.weight"),
    )
    assert all(map(torch.equal, statistics, paco.key_student.buffers()))


def test_what_is_missing_is_named() -> None:
    student = Tiny().eval()
    paco = term(student)
    alone = Signals(logits=torch.zeros(2, 3), targets=torch.eye(3)[:2])
    with pytest.raises(UsageError, match="second view"):
        paco(alone)
    with pytest.raises(UsageError, match="batch of one image"):
        paco(signals(student, count=1))
