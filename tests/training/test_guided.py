"""Guided steps against the published implementation's, and a teacher that stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale

from tests.parity.rule import reference_input, weight_by_rule
from vitrellis.models import create_model
from vitrellis.models.support.interop import TINY_TRANSFORMERS, translate
from vitrellis.objectives import KD, CrossEntropy, LocalityGuidance, Needs, Objective, TeacherOutput
from vitrellis.teachers.teacher import Teacher
from vitrellis.training.guided import GuidedStudent, StepInputs

VECTORS = json.loads((Path(__file__).parents[1] / "parity" / "training.json").read_text())
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference_names(model: nn.Module) -> dict[str, str]:
    """Our name of every tensor by the published name that the weight rule draws it from."""
    inverse = (
        ("conv1.", "stem.conv."),
        ("bn1.", "stem.bn."),
        ("fc.", "head.fc."),
        ("blocks.", "layers."),
        (".attn.qkv.", ".attn.qkv_transform."),
        (".attn.proj.", ".attn.projection."),
        ("patch_embed.proj.", "patch_embed.projection."),
        ("head_dist.", "distill_head."),
    )
    names = {}
    for mine in model.state_dict():
        theirs = mine
        if mine.startswith("stages."):
            _, stage, block, *rest = mine.split(".")
            tail = ".".join(rest)
            for ours, reference in (
                ("conv1.", "f.a."),
                ("bn1.", "f.a_bn."),
                ("conv2.", "f.b."),
                ("bn2.", "f.b_bn."),
                ("shortcut.0.", "proj."),
                ("shortcut.1.", "bn."),
            ):
                if tail.startswith(ours):
                    tail = reference + tail.removeprefix(ours)
                    break
            theirs = f"s{int(stage) + 1}.b{int(block) + 1}.{tail}"
        else:
            for ours, reference in inverse:
                if mine.startswith(ours) or (ours.startswith(".") and ours in mine):
                    theirs = theirs.replace(ours, reference, 1)
        names[{"dist_token": "distill_token"}.get(mine, theirs)] = mine
    return names


def by_rule(model: nn.Module) -> nn.Module:
    """The model, filled by the weight rule from the published names."""
    state = model.state_dict()
    filled = {
        theirs: torch.from_numpy(
            weight_by_rule(theirs, tuple(state[mine].shape), str(state[mine].dtype).split(".")[1])
        )
        for theirs, mine in reference_names(model).items()
    }
    model.load_state_dict(translate(filled, TINY_TRANSFORMERS))
    return model


def teacher(mode: Literal["eval", "train"], **changes: Any) -> Teacher:
    settings: dict[str, Any] = {
        "img_size": (32, 32),
        "channels": 3,
        "mean": MEAN,
        "std": STD,
        "student_mean": MEAN,
        "student_std": STD,
        "mode": mode,
    }
    model = by_rule(create_model("cifar_resnet56", num_classes=100))
    return Teacher(model, **(settings | changes))


def step(
    guided: GuidedStudent, teacher: Teacher, case: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    images = reference_input(case["input"]["seed"], tuple(case["input"]["shape"]))
    targets = F.one_hot(torch.tensor(case["labels"]), 100).float()
    guided.train()
    teacher.train()
    outputs = teacher(images, guided.objective.needs(0))
    total, parts, _ = guided(images, StepInputs(targets, 0, {"teacher": outputs}))
    total.backward()
    return total, parts


def norms(guided: GuidedStudent) -> dict[str, float]:
    """Gradient norms by the published names."""
    mine = {
        name: parameter.grad.norm().item()
        for name, parameter in guided.named_parameters()
        if parameter.grad is not None
    }
    named = {
        f"student_model.{theirs}": mine[f"student.{ours}"]
        for theirs, ours in reference_names(guided.student).items()
        if f"student.{ours}" in mine
    }
    for name, value in mine.items():
        if ".projections." in name:
            named["feature_transforms." + name.split(".projections.")[1]] = value
    return named


def check(case: dict[str, Any], total: Tensor, guided: GuidedStudent) -> None:
    assert total.item() == pytest.approx(case["total"], rel=1e-4)
    measured = norms(guided)
    for name, recorded in case["grad_l2"].items():
        assert measured[name] == pytest.approx(recorded, rel=1e-3), name
    whole = torch.tensor(list(measured.values())).norm().item()
    assert whole == pytest.approx(case["grad_l2_all_trainable"], rel=1e-3)


@pytest.mark.parametrize("case", VECTORS["end_to_end_guided_step"], ids=lambda c: c["name"])
def test_published_guided_step(case: dict[str, Any]) -> None:
    student = by_rule(create_model("deit_tiny_patch16_224", num_classes=100))
    locality = LocalityGuidance(
        student_blocks=case["student_indices"],
        teacher_blocks=case["teacher_indices"],
        student_channels=[192] * 3,
        teacher_channels=[16, 32, 64],
        weight=case["inter_weight"],
    )
    for number, projection in enumerate(locality.projections):
        for name, parameter in projection.named_parameters():
            key = f"feature_transforms.{number}.{name}"
            parameter.data = torch.from_numpy(weight_by_rule(key, tuple(parameter.shape)))
    guided = GuidedStudent(student, Objective([CrossEntropy(), locality]))
    total, parts = step(guided, teacher(case["teacher"]["mode"]), case)
    assert parts["cross_entropy"].item() == pytest.approx(case["cross_entropy"], rel=1e-4)
    assert parts["locality"].item() == pytest.approx(case["guidance_loss"], rel=1e-4)
    check(case, total, guided)


@pytest.mark.parametrize(
    "case", VECTORS["end_to_end_logit_standardized_step"], ids=lambda c: c["name"]
)
def test_published_logit_standardized_step(case: dict[str, Any]) -> None:
    student = by_rule(create_model("deit_tiny_distilled_patch16_224", num_classes=100))
    student.set_distilled_training(True)  # type: ignore[operator]  # timm's convention
    kd = KD(
        temperature=case["temperature"],
        standardize=True,
        head="distillation",
        weight=case["logit_weight"] * case["extra_weight"],
    )
    guided = GuidedStudent(student, Objective([CrossEntropy(weight=0.5), kd]))
    total, parts = step(guided, teacher(case["teacher"]["mode"]), case)
    assert parts["cross_entropy"].item() == pytest.approx(case["cross_entropy"], rel=1e-4)
    weighted = parts["kd"].item() * case["extra_weight"]
    assert weighted == pytest.approx(case["logit_loss"], rel=1e-4)
    check(case, total, guided)


def test_teacher_stays_in_eval_mode_and_frozen() -> None:
    model = create_model("cifar_resnet8", num_classes=3)
    guide = Teacher(
        model,
        img_size=(16, 16),
        channels=3,
        mean=MEAN,
        std=STD,
        student_mean=MEAN,
        student_std=STD,
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    guide.train()
    assert not any(module.training for module in guide.modules())
    logits, maps = guide(
        torch.randn(4, 3, 16, 16), Needs(teacher_blocks=(2, 0), teacher_logits=True)
    )
    assert logits is not None
    assert not logits.requires_grad
    assert {block: taken.shape[1] for block, taken in maps.items()} == {0: 16, 2: 64}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_teacher_in_train_mode_drifts() -> None:
    guide = teacher("train")
    guide.eval()
    before = guide.model.bn1.running_mean.clone()  # type: ignore[union-attr,operator]
    guide(torch.randn(4, 3, 32, 32), Needs(teacher_logits=True))
    assert not torch.equal(guide.model.bn1.running_mean, before)  # type: ignore[union-attr,arg-type]


def test_teacher_is_not_run_for_nothing() -> None:
    assert teacher("eval")(torch.full((1, 3, 32, 32), torch.nan), Needs()) == (None, {})


def test_a_teacher_has_a_precision_of_its_own() -> None:
    """It computes in bfloat16 in a training in float32, and the other way round."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    needs = Needs(teacher_blocks=(2,), teacher_logits=True)
    exact = teacher("eval")(images, needs)
    coarse = teacher("eval", precision="bfloat16")(images, needs)
    with torch.autocast("cpu", torch.bfloat16):
        by_torch = teacher("eval").model(images)
        exact_within = teacher("eval", precision="float32")(images, needs)
    assert coarse.logits is not None
    assert coarse.logits.dtype == coarse.maps[2].dtype == torch.float32
    torch.testing.assert_close(coarse.logits, by_torch.float(), rtol=0, atol=0)
    error = (coarse.logits - exact.logits).norm() / exact.logits.norm()
    assert 0 < error < 0.02  # bfloat16 keeps 8 bits, which is 0.4 %
    assert not torch.equal(coarse.maps[2], exact.maps[2])
    torch.testing.assert_close(exact_within, exact, rtol=0, atol=0)


def test_teacher_sees_its_own_normalisation_and_size() -> None:
    grey = {"student_mean": (0.3,), "student_std": (0.2,), "img_size": (8, 8)}
    guide = teacher("eval", **grey)
    picture = torch.rand(2, 1, 16, 16)
    view = guide.view((picture - 0.3) / 0.2)
    small = F.interpolate(picture.expand(-1, 3, -1, -1), (8, 8), mode="bilinear")
    expected = (small - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(view, expected, rtol=1e-4, atol=1e-5)


def test_a_grey_teacher_sees_the_brightness_of_colours() -> None:
    guide = Teacher(
        create_model("cifar_resnet8", num_classes=3, in_chans=1),
        img_size=(16, 16),
        channels=1,
        mean=(0.4,),
        std=(0.3,),
        student_mean=MEAN,
        student_std=STD,
    )
    picture = torch.rand(2, 3, 16, 16)
    normalised = (picture - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = (rgb_to_grayscale(picture) - 0.4) / 0.3
    torch.testing.assert_close(guide.view(normalised), expected, rtol=1e-3, atol=1e-3)


def test_projections_learn_with_the_student() -> None:
    student = create_model("vit_micro_patch7_28", num_classes=3)
    locality = LocalityGuidance(
        student_blocks=[1], teacher_blocks=[0], student_channels=[96], teacher_channels=[4]
    )
    guided = GuidedStudent(student, Objective([CrossEntropy(), locality]))
    teacher_outputs = TeacherOutput(None, {0: torch.randn(3, 4, 7, 7)})
    inputs = StepInputs(torch.eye(3), 0, {"teacher": teacher_outputs})
    guided(torch.randn(3, 3, 28, 28), inputs)[0].backward()
    without = [name for name, p in guided.named_parameters() if p.grad is None]
    assert without == []
    assert "objective.terms.locality.projections.0.weight" in guided.state_dict()
