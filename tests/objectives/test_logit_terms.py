"""Decoupled, multi-level and curriculum distillation against the published values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.losses import CASES, VALUE_TOLERANCE, assert_gradient, described_input
from vitrellis.errors import UsageError
from vitrellis.objectives import (
    CTKD,
    DKD,
    KD,
    MLKD,
    HardDistillation,
    LogitTerm,
    Signals,
    decoupled_distillation,
    multi_level_distillation,
    standardize,
)
from vitrellis.objectives.curriculum import reversal_factor, reverse_gradient
from vitrellis.objectives.multi_level import (
    batch_correlation,
    class_correlation,
    published_multi_level_distillation,
)

NUM_CLASSES = 7


def logits(seed: int, batch: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(batch, NUM_CLASSES, generator=generator, dtype=dtype)


def signals(student: Tensor, teacher: Tensor, labels: Tensor, epoch: int = 0) -> Signals:
    targets = F.one_hot(labels, student.shape[1]).float()
    return Signals(logits=student, targets=targets, teacher_logits=teacher, epoch=epoch)


LABELS = torch.tensor([0, 6, 2, 2, 5])
TERMS: dict[str, Callable[..., LogitTerm]] = {
    "kd": KD,
    "dkd": DKD,
    "mlkd": MLKD,
    "mlkd-code": lambda **settings: MLKD(form="code", **settings),
    "ctkd": CTKD,
}
EVERY_TERM = pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)


@pytest.mark.parametrize("case", CASES["lskd_kd"], ids=lambda case: case["name"])
def test_published_kd(case: dict[str, Any]) -> None:
    student = described_input(case["student_logits"])
    teacher = described_input(case["teacher_logits"])
    term = KD(temperature=case["temperature"], standardize=case["standardize"])
    loss = term(signals(student, teacher, torch.zeros(len(student), dtype=torch.int64)))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(student.grad, case["grad_student"])


@pytest.mark.parametrize("case", CASES["lskd_dkd"], ids=lambda case: case["name"])
def test_published_dkd(case: dict[str, Any]) -> None:
    student = described_input(case["student_logits"])
    teacher = described_input(case["teacher_logits"])
    term = DKD(
        alpha=case["alpha"],
        beta=case["beta"],
        temperature=case["temperature"],
        standardize=case["standardize"],
    )
    loss = term(signals(student, teacher, torch.tensor(case["labels"])))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(student.grad, case["grad_student"])


@pytest.mark.parametrize("case", CASES["lskd_mlkd"], ids=lambda case: case["name"])
def test_published_mlkd(case: dict[str, Any]) -> None:
    names = ("student_weak", "student_strong", "teacher_weak", "teacher_strong")
    plain = {name: described_input(case[name]) for name in names}
    compared = {n: standardize(z) for n, z in plain.items()} if case["standardize"] else plain
    levels = published_multi_level_distillation(
        (compared["student_weak"], compared["teacher_weak"]),
        (compared["student_strong"], compared["teacher_strong"]),
        plain["teacher_weak"],
        temperatures=(case["base_temperature"], 3.0, 5.0, 2.0, 6.0),
        plain=(plain["student_weak"], plain["teacher_weak"]),
    )
    labels = torch.tensor(case["labels"])
    cross_entropy = case["ce_weight"] * (
        F.cross_entropy(plain["student_weak"], labels)
        + F.cross_entropy(plain["student_strong"], labels)
    )
    weight, parts = case["kd_weight"], case["parts"]
    assert weight * levels.instance.item() == pytest.approx(parts["loss_kd"], rel=VALUE_TOLERANCE)
    assert weight * levels.classes.item() == pytest.approx(parts["loss_cc"], rel=VALUE_TOLERANCE)
    assert weight * levels.batch.item() == pytest.approx(parts["loss_bc"], rel=VALUE_TOLERANCE)
    total = cross_entropy + weight * torch.stack(levels).sum()
    total.backward()
    assert total.item() == pytest.approx(case["total"], rel=VALUE_TOLERANCE)
    assert_gradient(plain["student_weak"].grad, case["grad_student_weak"])
    assert_gradient(plain["student_strong"].grad, case["grad_student_strong"])


@pytest.mark.parametrize("case", CASES["lskd_ctkd"], ids=lambda case: case["name"])
def test_published_ctkd(case: dict[str, Any]) -> None:
    student = described_input(case["student_logits"])
    teacher = described_input(case["teacher_logits"])
    term = CTKD(
        lowest=case["t_start"], span=case["t_end"], epochs=2, standardize=case["standardize"]
    )
    with torch.no_grad():
        term.raw_temperature.fill_(case["raw_parameter"])
    assert term.temperature().item() == pytest.approx(case["temperature"], rel=1e-6)
    epoch = {-1.0: 2, -0.5: 1}[case["reversal_lambda"]]
    loss = term(signals(student, teacher, torch.zeros(len(student), dtype=torch.int64), epoch))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(student.grad, case["grad_student"])
    assert term.raw_temperature.grad is not None
    value = term.raw_temperature.grad.item()
    assert value == pytest.approx(case["grad_raw_parameter"], rel=VALUE_TOLERANCE)


@EVERY_TERM
def test_equal_logits_cost_nothing(kind: Callable[..., LogitTerm]) -> None:
    same = logits(0).requires_grad_()
    for standardized in (False, True):
        loss = kind(standardize=standardized)(signals(same, same.detach(), LABELS))
        assert loss.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["kd", "dkd", "ctkd"])
def test_a_standardized_term_ignores_scale_and_shift(name: str) -> None:
    term = TERMS[name](standardize=True)
    student, teacher = logits(0), logits(1)
    moved = term(signals(3.7 * student + 11, 0.2 * teacher - 5, LABELS))
    torch.testing.assert_close(moved, term(signals(student, teacher, LABELS)), rtol=1e-5, atol=0)


@EVERY_TERM
def test_zero_logits_get_ordinary_gradients(kind: Callable[..., LogitTerm]) -> None:
    def norm(scale: float) -> float:
        student = (scale * logits(0)).requires_grad_()
        kind(standardize=True)(signals(student, logits(1), LABELS)).backward()
        assert student.grad is not None
        return student.grad.norm().item()

    # without the limit it would be 1e7 times as large; the deviations 2 and 0.1 (the floor) differ
    # by 20
    assert 0 < norm(0.0) < 100 * norm(1.0)


@EVERY_TERM
def test_gradients_against_finite_differences(kind: Callable[..., LogitTerm]) -> None:
    term = kind(standardize=True).double()
    student = logits(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: term(signals(z, logits(1), LABELS, epoch=10)), (student,)
    )


@EVERY_TERM
def test_half_precision_is_judged_in_full(kind: Callable[..., LogitTerm]) -> None:
    term = kind(standardize=True)
    student, teacher = logits(0).half(), logits(1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(signals(student, teacher, LABELS))
    assert torch.equal(loss, term(signals(student.float(), teacher.float(), LABELS)))


def test_decoupled_distillation_is_the_definition() -> None:
    student, teacher, temperature = logits(0), logits(1), 3.0
    expected = 0.0
    for row, label in enumerate(LABELS.tolist()):
        p, q = (z[row].div(temperature).softmax(0) for z in (teacher, student))
        rest = [k for k in range(NUM_CLASSES) if k != label]
        two_way = p[label] * (p[label] / q[label]).log()
        two_way += (1 - p[label]) * ((1 - p[label]) / (1 - q[label])).log()
        p_rest, q_rest = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
        others = (p_rest * (p_rest / q_rest).log()).sum()
        expected += (2 * two_way + 5 * others).item()
    value = decoupled_distillation(
        student, teacher, LABELS, alpha=2.0, beta=5.0, temperature=temperature
    )
    assert value.item() == pytest.approx(temperature**2 * expected / len(LABELS))


def test_decoupled_parts_make_plain_distillation() -> None:
    """Eq. 6 of the paper: KD is TCKD and NCKD times one minus the teacher's share of the label."""
    student, teacher = logits(0), logits(1)
    rows = []
    for row in range(len(LABELS)):
        one = (student[row : row + 1], teacher[row : row + 1], LABELS[row : row + 1])
        share = teacher[row].softmax(0)[LABELS[row]].item()
        rows.append(decoupled_distillation(*one, alpha=1.0, beta=1 - share, temperature=1.0).item())
    plain = KD(temperature=1.0, standardize=False)(signals(student, teacher, LABELS))
    assert sum(rows) / len(rows) == pytest.approx(plain.item())


@pytest.mark.parametrize("sure", ["student", "teacher", "both"])
def test_decoupled_distillation_survives_certainty(sure: str) -> None:
    """The published code takes logarithms of sums that are 0 in float32."""
    certain = torch.tensor([[120.0, 0.0, 0.0]])
    unsure = torch.tensor([[0.3, 0.0, -0.1]])
    student = (certain if sure in ("student", "both") else unsure).clone().requires_grad_()
    teacher = certain if sure in ("teacher", "both") else unsure
    loss = decoupled_distillation(student, teacher, torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_one_class_cannot_be_decoupled() -> None:
    with pytest.raises(UsageError, match="two classes"):
        decoupled_distillation(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long())


def test_correlations_are_their_definition() -> None:
    student, teacher = logits(0).softmax(1), logits(1).softmax(1)
    images = sum(
        ((teacher[i] @ teacher[j]) - (student[i] @ student[j])) ** 2
        for i in range(5)
        for j in range(5)
    )
    classes = sum(
        ((teacher[:, i] @ teacher[:, j]) - (student[:, i] @ student[:, j])) ** 2
        for i in range(NUM_CLASSES)
        for j in range(NUM_CLASSES)
    )
    torch.testing.assert_close(batch_correlation(student, teacher), images / 5)
    torch.testing.assert_close(class_correlation(student, teacher), classes / NUM_CLASSES)


def test_levels_are_summed_over_temperatures() -> None:
    pair = (logits(0), logits(1))
    several = multi_level_distillation(*pair, temperatures=(2.0, 5.0))
    single = [multi_level_distillation(*pair, temperatures=(t,)) for t in (2.0, 5.0)]
    for level, *alone in zip(several, *single, strict=True):
        torch.testing.assert_close(level, torch.stack(alone).sum())
    assert single[0].instance.item() == pytest.approx(
        KD(temperature=2.0, standardize=False)(signals(*pair, LABELS)).item()
    )


def test_the_temperature_climbs_where_the_student_descends() -> None:
    values = torch.tensor([2.0], requires_grad=True)
    reverse_gradient(3 * values, -0.25).sum().backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(-0.75)


def test_the_reversal_sets_in_by_half_a_cosine() -> None:
    assert [reversal_factor(epoch, 10) for epoch in (0, 5, 10, 99)] == pytest.approx(
        [0.0, -0.5, -1.0, -1.0], abs=1e-12
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DKD(temperature=-1.0), "above 0"),
        (lambda: MLKD(temperatures=()), "at least one"),
        (lambda: MLKD(form="papr"), "Did you mean 'paper'"),  # type: ignore[arg-type]
        (lambda: CTKD(epochs=0), "at least 1"),
        (lambda: CTKD(span=0.0), "above 0"),
        (lambda: HardDistillation(head="both"), "class, distillation"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
