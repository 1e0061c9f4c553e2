"""Locality guidance against the published values, finite differences and its properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.losses import (
    CASES,
    VALUE_TOLERANCE,
    assert_gradient,
    described_input,
    described_weight,
)
from vitrellis.errors import UsageError
from vitrellis.objectives import LocalityGuidance, Signals, locality_loss
from vitrellis.objectives.locality import TRANSFORMS, Transform, resize

GUIDANCE = CASES["guidance_intermediate"]


def random_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def signals(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Signals:
    """A batch with these maps as blocks 0, 1, ..."""
    nothing = torch.zeros(len(students[0]), 2)
    return Signals(
        logits=nothing,
        targets=nothing,
        student_maps=dict(enumerate(students)),
        teacher_maps=dict(enumerate(teachers)),
    )


def guidance_of(
    students: Sequence[Tensor], teachers: Sequence[Tensor], **settings: Any
) -> LocalityGuidance:
    """A term that fits these maps."""
    return LocalityGuidance(
        student_blocks=range(len(students)),
        teacher_blocks=range(len(teachers)),
        student_channels=[m.shape[1] for m in students],
        teacher_channels=[m.shape[1] for m in teachers],
        **settings,
    )


def projection(term: LocalityGuidance, pair: int) -> nn.Conv2d:
    return cast(nn.Conv2d, term.projections[pair])


def parameters_of(term: LocalityGuidance, pair: int) -> dict[str, nn.Parameter]:
    """Weight and bias of a pair's projection."""
    return dict(projection(term, pair).named_parameters())


def make_identity(term: LocalityGuidance) -> None:
    """Lets the only projection pass its input on."""
    nn.init.dirac_(parameters_of(term, 0)["weight"])
    nn.init.zeros_(parameters_of(term, 0)["bias"])


@pytest.mark.parametrize("case", GUIDANCE, ids=lambda case: case["name"])
def test_published_values_and_gradients(case: dict[str, Any]) -> None:
    students = [described_input(pair["student"]) for pair in case["pairs"]]
    teachers = [described_input(pair["teacher"]) for pair in case["pairs"]]
    term = guidance_of(students, teachers, transform=case["transform"])
    if case["transform"] == "linear":
        for i, pair in enumerate(case["pairs"]):
            for name in ("weight", "bias"):
                parameters_of(term, i)[name].data.copy_(described_weight(pair["conv1x1"][name]))
    loss = term(signals(students, teachers))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    for i, pair in enumerate(case["pairs"]):
        assert_gradient(students[i].grad, pair["grad_student"])
        assert teachers[i].grad is None
        if case["transform"] == "linear":
            for name, parameter in parameters_of(term, i).items():
                assert_gradient(parameter.grad, pair["conv1x1"][f"grad_{name}"])


@pytest.mark.parametrize("case", GUIDANCE, ids=lambda case: case["name"])
def test_published_values_of_single_pairs(case: dict[str, Any]) -> None:
    for i, pair in enumerate(case["pairs"]):
        student, teacher = described_input(pair["student"]), described_input(pair["teacher"])
        if case["transform"] == "linear":
            weight, bias = (described_weight(pair["conv1x1"][name]) for name in ("weight", "bias"))
            student = F.conv2d(student, weight, bias)
        loss = locality_loss(student, teacher, transform=case["transform"])
        assert loss.item() == pytest.approx(pair["loss"], rel=VALUE_TOLERANCE), i


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_against_finite_differences(transform: Transform, learned: bool) -> None:
    students = [random_map(2, 3, 2, 3, seed=i, dtype=torch.float64) for i in range(2)]
    teachers = [
        random_map(2, 2, 4, 2, seed=7, dtype=torch.float64),
        random_map(2, 4, 2, 3, seed=8, dtype=torch.float64),
    ]
    term = guidance_of(students, teachers, transform=transform, learned=learned).double()
    names = [name for name, _ in term.named_parameters()]

    def loss(*inputs: Tensor) -> Tensor:
        parameters = dict(zip(names, inputs[2:], strict=True))
        value = torch.func.functional_call(term, parameters, (signals(inputs[:2], teachers),))
        assert isinstance(value, Tensor)
        return value

    leaves = [x.detach().clone().requires_grad_() for x in (*students, *term.parameters())]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_identical_maps_cost_nothing(transform: Transform) -> None:
    same = random_map(3, 4, 5, 6)
    term = guidance_of([same], [same], transform=transform)
    if transform == "linear":
        make_identity(term)
    assert term(signals([same], [same])).item() < 1e-12


@pytest.mark.parametrize("transform", ["attention", "similarity"])
def test_scale_of_either_map_does_not_matter_where_both_are_normalised(
    transform: Transform,
) -> None:
    student, teacher = random_map(3, 4, 5, 5), random_map(3, 2, 8, 8, seed=1)
    loss = locality_loss(student, teacher, transform=transform)
    scaled = locality_loss(5 * student, 0.1 * teacher, transform=transform)
    torch.testing.assert_close(loss, scaled)


def test_projecting_before_resizing_equals_resizing_before_projecting() -> None:
    student, teacher = random_map(2, 6, 7, 5), random_map(2, 3, 9, 16, seed=1)
    term = guidance_of([student], [teacher])
    large = F.interpolate(student, (9, 16), mode="bilinear", align_corners=False)
    expected = (projection(term, 0)(large) - teacher).square().mean()
    torch.testing.assert_close(term(signals([student], [teacher])), expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_each_side_of_a_map_grows_to_the_larger_one(transform: Transform) -> None:
    student, teacher = random_map(2, 3, 12, 4), random_map(2, 3, 6, 10, seed=1)
    large = [
        F.interpolate(m, (12, 10), mode="bilinear", align_corners=False) for m in (student, teacher)
    ]
    loss = locality_loss(student, teacher, transform=transform)
    torch.testing.assert_close(loss, locality_loss(large[0], large[1], transform=transform))


def test_a_map_of_the_right_size_is_not_resized() -> None:
    same = random_map(1, 2, 3, 4)
    assert resize(same, (3, 4)) is same


def test_the_loss_is_the_sum_over_pairs() -> None:
    students = [random_map(2, 4, 4, 4, seed=i) for i in range(3)]
    teachers = [random_map(2, 2 + i, 8 - i, 8, seed=9 + i) for i in range(3)]
    term = guidance_of(students, teachers, transform="similarity")
    alone = [
        locality_loss(student, teacher, transform="similarity")
        for student, teacher in zip(students, teachers, strict=True)
    ]
    torch.testing.assert_close(term(signals(students, teachers)), sum(alone))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("learned", [False, True])
def test_autocast_changes_no_loss_of_full_precision_maps(
    transform: Transform, learned: bool
) -> None:
    students, teachers = [random_map(4, 8, 7, 7)], [random_map(4, 5, 8, 8, seed=1)]
    term = guidance_of(students, teachers, transform=transform, learned=learned)
    with torch.autocast("cpu", torch.bfloat16):
        cast_loss = term(signals(students, teachers))
    assert torch.equal(cast_loss, term(signals(students, teachers)))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_half_precision_maps_are_compared_in_full(transform: Transform) -> None:
    student, teacher = random_map(4, 5, 7, 7).half(), random_map(4, 5, 8, 8, seed=1).bfloat16()
    loss = locality_loss(student, teacher, transform=transform)
    assert loss.dtype == torch.float32
    in_full = locality_loss(student.float(), teacher.float(), transform=transform)
    assert torch.equal(loss, in_full)


@pytest.mark.parametrize("transform", ["attention", "similarity"])
def test_maps_of_zeros_have_finite_gradients(transform: Transform) -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = locality_loss(student, random_map(2, 3, 4, 4), transform=transform)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()


def test_a_learned_mixture_starts_as_the_mean_of_all_blocks() -> None:
    students = [random_map(2, 6, 4, 4, seed=i) for i in range(3)]
    teachers = [random_map(2, 3, 8, 8, seed=8), random_map(2, 5, 4, 4, seed=9)]
    term = guidance_of(students, teachers, learned=True)
    torch.testing.assert_close(term.mixture(), torch.full((2, 3), 1 / 3))
    mean = torch.stack(students).mean(dim=0)
    expected = sum(
        locality_loss(projection(term, i)(mean), teachers[i]) for i in range(len(teachers))
    )
    torch.testing.assert_close(term(signals(students, teachers)), expected)


def test_each_teacher_block_has_its_own_mixture() -> None:
    students = [random_map(2, 3, 4, 4, seed=i) for i in range(3)]
    teachers = [random_map(2, 3, 4, 4, seed=8), random_map(2, 3, 4, 4, seed=9)]
    term = guidance_of(students, teachers, transform="attention", learned=True)
    with torch.no_grad():
        term.mixture_logits[0].copy_(torch.tensor([50.0, 0.0, 0.0]))
        term.mixture_logits[1].copy_(torch.tensor([0.0, 0.0, 50.0]))
    expected = locality_loss(students[0], teachers[0], transform="attention") + locality_loss(
        students[2], teachers[1], transform="attention"
    )
    torch.testing.assert_close(term(signals(students, teachers)), expected)
    torch.testing.assert_close(term.mixture(), torch.eye(3)[[0, 2]])


def test_blocks_of_several_sizes_are_mixed_at_the_largest() -> None:
    students = [random_map(2, 3, 8, 2), random_map(2, 3, 4, 6, seed=1)]
    teachers = [random_map(2, 3, 8, 6, seed=9)]
    term = guidance_of(students, teachers, transform="attention", learned=True)
    large = [F.interpolate(m, (8, 6), mode="bilinear", align_corners=False) for m in students]
    expected = locality_loss((large[0] + large[1]) / 2, teachers[0], transform="attention")
    torch.testing.assert_close(term(signals(students, teachers)), expected)


def test_a_learned_mixture_finds_the_block_that_the_teacher_resembles() -> None:
    students = [random_map(4, 3, 5, 5, seed=i) for i in range(4)]
    teachers = [students[2].clone()]
    term = guidance_of(students, teachers, learned=True)
    make_identity(term)
    optimizer = torch.optim.SGD(term.mixture_logits.parameters(), lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        term(signals(students, teachers)).backward()
        optimizer.step()
    assert term.mixture()[0].argmax() == 2
    assert term.mixture()[0, 2] > 0.8


def test_all_that_is_learned_gets_a_gradient_and_is_saved() -> None:
    students = [random_map(2, 3, 4, 4, seed=i) for i in range(2)]
    teachers = [random_map(2, 5, 8, 8, seed=9)]
    term = guidance_of(students, teachers, learned=True)
    term(signals(students, teachers)).backward()
    assert set(term.state_dict()) == {
        "projections.0.weight",
        "projections.0.bias",
        "mixture_logits.0",
    }
    for name, parameter in term.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_transforms_that_learn_nothing_have_no_parameters() -> None:
    maps = [random_map(2, 3, 4, 4)]
    assert not list(guidance_of(maps, maps, transform="attention").parameters())


def test_needs_each_block_once_in_order() -> None:
    term = LocalityGuidance(
        student_blocks=[11, 0, 0],
        teacher_blocks=[2, 1, 0],
        student_channels=[8, 8, 8],
        teacher_channels=[4, 3, 2],
    )
    assert term.needs.student_blocks == (0, 11)
    assert term.needs.teacher_blocks == (0, 1, 2)


def test_missing_maps_are_named() -> None:
    maps = [random_map(2, 3, 4, 4)] * 2
    with pytest.raises(AssertionError, match="locality lacks maps"):
        guidance_of(maps, maps)(signals(maps, maps[:1]))


GOOD: dict[str, Any] = {
    "student_blocks": [0, 6],
    "teacher_blocks": [0, 1],
    "student_channels": [8, 8],
    "teacher_channels": [4, 6],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": "lineer"}, "Did you mean 'linear'"),
        ({"teacher_blocks": [0], "teacher_channels": [4]}, "2 student blocks .*1 teacher blocks"),
        ({"student_channels": [8]}, "1 student channels .*2 student blocks"),
        ({"teacher_blocks": [], "teacher_channels": []}, "no teacher blocks"),
        ({"learned": True, "student_channels": [8, 16]}, "equal width.*0: 8, 6: 16"),
        ({"learned": True, "student_blocks": [3, 3]}, "one of them twice"),
    ],
)
def test_blocks_that_cannot_be_compared_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LocalityGuidance(**(GOOD | changes))


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape"), [((2, 3, 4, 4), (2, 1, 4, 4)), ((2, 3, 4, 4), (4, 3, 4, 4))]
)
def test_maps_that_cannot_be_compared_are_refused(
    student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        locality_loss(torch.zeros(student_shape), torch.zeros(teacher_shape))
