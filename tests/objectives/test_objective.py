"""How terms add up, are switched off, described and restored."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.objectives import (
    KD,
    Adaptive,
    CrossEntropy,
    HardDistillation,
    LocalityGuidance,
    Needs,
    Objective,
    OffAfter,
    Signals,
    Term,
    WeightSchedule,
)

EPOCH = 3


class Caution(Term):
    """The example of the documentation: negative entropy of the predictions, batch mean."""

    def __init__(self, weight: WeightSchedule | float = 0.1) -> None:
        super().__init__("caution", weight=weight)

    def forward(self, signals: Signals) -> Tensor:
        log_probs = signals.logits.float().log_softmax(dim=-1)
        return (log_probs.exp() * log_probs).sum(dim=-1).mean()


class Forbidden(Term):
    """Must not be computed."""

    def forward(self, signals: Signals) -> Tensor:
        raise AssertionError("a term that is off was computed")


def locality(weight: WeightSchedule | float = 2.5, **settings: Any) -> LocalityGuidance:
    torch.manual_seed(0)
    return LocalityGuidance(
        student_blocks=[0, 2],
        teacher_blocks=[0, 1],
        student_channels=[4, 4],
        teacher_channels=[2, 3],
        weight=weight,
        **settings,
    )


def batch() -> tuple[dict[str, Tensor], Signals]:
    """The student's outputs as leaves, and the signals that hold them."""
    generator = torch.Generator().manual_seed(0)
    student = {
        "logits": torch.randn(3, 5, generator=generator, requires_grad=True),
        "map_0": torch.randn(3, 4, 4, 4, generator=generator, requires_grad=True),
        "map_2": torch.randn(3, 4, 4, 4, generator=generator, requires_grad=True),
    }
    signals = Signals(
        logits=student["logits"],
        targets=torch.eye(5)[[0, 3, 2]],
        student_maps={0: student["map_0"], 2: student["map_2"]},
        teacher_logits=torch.randn(3, 5, generator=generator),
        teacher_maps={
            0: torch.randn(3, 2, 8, 8, generator=generator),
            1: torch.randn(3, 3, 4, 4, generator=generator),
        },
    )
    return student, signals


def total_and_gradients(objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
    """The total in `EPOCH`, and its gradients; zeros for what does not influence it."""
    student, signals = batch()
    total = objective(signals, EPOCH).total
    total.backward()
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in student.items()
    }
    return total.detach(), gradients


def test_the_sum_of_terms_is_the_sum_of_each_alone_in_value_and_gradient() -> None:
    def terms() -> list[Term]:
        return [
            CrossEntropy(weight=0.5),
            locality(),
            KD(standardize=True, weight=9.0),
            Caution(),
        ]

    together, gradients = total_and_gradients(Objective(terms()))
    alone = [total_and_gradients(Objective([term])) for term in terms()]
    torch.testing.assert_close(together, sum(total for total, _ in alone))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sum(parts[name] for _, parts in alone))


def test_parts_are_unweighted_detached_and_add_up_to_the_total() -> None:
    _, signals = batch()
    terms = [CrossEntropy(weight=0.5), locality(weight=2.5), KD(weight=9.0)]
    value = Objective(terms)(signals, EPOCH)
    assert list(value.parts) == ["cross_entropy", "locality", "kd"]
    for term in terms:
        assert torch.equal(value.parts[term.name], term(signals).detach())
        assert not value.parts[term.name].requires_grad
    parts = value.parts
    expected = 0.5 * parts["cross_entropy"] + 2.5 * parts["locality"] + 9 * parts["kd"]
    torch.testing.assert_close(value.total.detach(), expected)


def test_a_term_that_is_off_changes_nothing_and_is_not_computed() -> None:
    plain, plain_gradients = total_and_gradients(Objective([CrossEntropy()]))
    off = [Forbidden("zero", weight=0.0), Forbidden("later", weight=OffAfter(1.0, epoch=EPOCH))]
    objective = Objective([CrossEntropy(), *off, locality(weight=OffAfter(2.5, epoch=EPOCH))])
    total, gradients = total_and_gradients(objective)
    assert torch.equal(total, plain)
    assert all(torch.equal(gradients[name], plain_gradients[name]) for name in gradients)
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_needs_are_those_of_the_terms_that_are_on() -> None:
    objective = Objective([CrossEntropy(), locality(weight=OffAfter(2.5, epoch=2)), KD(weight=0.0)])
    assert objective.needs(1) == Needs(student_blocks=(0, 2), teacher_blocks=(0, 1))
    assert objective.needs(2) == Needs()
    assert objective.weights(1) == {"cross_entropy": 1.0, "locality": 2.5, "kd": 0.0}
    assert objective.weights(2) == {"cross_entropy": 1.0, "locality": 0.0, "kd": 0.0}


def test_needs_unite() -> None:
    first = Needs(student_blocks=(6, 0), teacher_logits=True)
    second = Needs(student_blocks=(0, 11), teacher_blocks=(2,))
    assert first | second == Needs((0, 6, 11), (2,), teacher_logits=True)


def test_nothing_left_to_learn_is_an_error_that_says_so() -> None:
    _, signals = batch()
    objective = Objective([CrossEntropy(weight=OffAfter(1.0, epoch=2))])
    with pytest.raises(VitrellisError, match=r"every term \(cross_entropy\) is 0 in epoch 2"):
        objective(signals, 2)


def test_an_adaptive_term_hears_of_its_epochs_and_switches_off() -> None:
    objective = Objective([CrossEntropy(), locality(weight=Adaptive(2.5, window=3, min_epoch=0))])
    falls = [4.0, 3.0, *[2.0] * 10]
    epoch = 0
    while objective.needs(epoch).student_blocks:
        objective.end_epoch(epoch, {"cross_entropy": 1.0, "locality": falls[epoch]})
        epoch += 1
    assert 2 < epoch < len(falls)
    objective.end_epoch(epoch, {"cross_entropy": 1.0})  # without a mean of what did not run


def test_state_survives_a_checkpoint_without_pickled_objects() -> None:
    def build() -> Objective:
        return Objective([CrossEntropy(), locality(weight=Adaptive(2.5, window=3, min_epoch=0))])

    first, second = build(), build()
    nn.init.ones_(next(first.parameters()))
    for epoch, loss in enumerate([4.0, 3.0, 2.5]):
        first.end_epoch(epoch, {"cross_entropy": 1.0, "locality": loss})
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(first.parameters(), second.parameters(), strict=True)
    )
    for epoch in range(3, 10):
        assert first.weights(epoch) == second.weights(epoch)
        if first.weights(epoch)["locality"]:
            for objective in (first, second):
                objective.end_epoch(epoch, {"cross_entropy": 1.0, "locality": 2.5})
    assert second.weights(10)["locality"] == 0


def test_the_state_of_other_terms_is_refused() -> None:
    state = Objective([CrossEntropy(), Caution()]).get_extra_state()
    with pytest.raises(VitrellisError, match="cross_entropy, caution"):
        Objective([CrossEntropy()]).set_extra_state(state)


def test_every_term_is_described_with_its_weight_and_settings() -> None:
    objective = Objective(
        [
            CrossEntropy(label_smoothing=0.1),
            locality(),
            locality(weight=Adaptive(2.5, min_epoch=0), learned=True, name="mixed"),
            HardDistillation(head="distillation"),
            KD(standardize=True, weight=9.0),
            Caution(),
        ]
    )
    times = "\N{MULTIPLICATION SIGN}"
    assert objective.describe() == [
        f"cross_entropy {times} 1 (label smoothing 0.1)",
        f"locality {times} 2.5 (linear; student blocks 0, 2 → teacher blocks 0, 1)",
        f"mixed {times} 2.5, adaptive (window 50, threshold -0.02) "
        "(linear; a learned mixture of student blocks 0, 2 → teacher blocks 0, 1)",
        f"hard {times} 1 (the teacher's favourite class; distillation head)",
        f"kd {times} 9 (T 2, mean over batch, standardized by the sample deviation; class head)",
        f"caution {times} 0.1",
    ]


def test_terms_need_names_of_their_own() -> None:
    with pytest.raises(UsageError, match="2 terms are called 'caution'"):
        Objective([Caution(), Caution()])


@pytest.mark.parametrize("name", ["", "a.b", "training", "keys"])
def test_names_that_torch_cannot_register_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        Objective([CrossEntropy(name=name)])


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one term"):
        Objective([])


def test_what_a_term_learns_is_learned_with_the_objective() -> None:
    names = {name for name, _ in Objective([CrossEntropy(), locality()]).named_parameters()}
    assert names == {
        f"terms.locality.projections.{pair}.{kind}"
        for pair in (0, 1)
        for kind in ("weight", "bias")
    }
