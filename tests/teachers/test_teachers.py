"""Several teachers at once, and teachers from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrellis
from tests.training.command import FEW_IMAGES, TINY, run
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.objectives import KD, CrossEntropy, Objective, Signals, TeacherOutput
from vitrellis.recipe import recipe_from

SMALL = [
    "training.epochs=1",
    "schedule.warmup_epochs=0",
    "training.batch_size=8",
    "input.img_size=16",
    "machine.threads=1",
    "machine.accelerator=cpu",
]


class Colour(nn.Module):
    """A module that follows no convention: the mean colour, through one layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.mean(dim=(2, 3)))


def source() -> Any:
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8)
    return vitrellis.from_tensors(images, torch.arange(24) % 2)


def recipe(**sections: object) -> Any:
    values = {
        "extends": "photos-alone",
        "model": {"name": "dhvt_micro_patch4"},
        "objective": {"kd": {"standardize": False}},
    }
    return recipe_from(values | sections, SMALL)


def test_each_term_sees_its_own_teacher() -> None:
    student = torch.randn(4, 3)
    teacher_outputs = {name: TeacherOutput(torch.randn(4, 3), {}) for name in ("a", "b")}
    terms = [KD(name=f"kd_{name}", weight=weight) for name, weight in (("a", 2.0), ("b", 0.5))]
    for term, name in zip(terms, teacher_outputs, strict=True):
        term.teacher = name
    signals = Signals(
        logits=student, targets=torch.eye(3)[[0, 1, 2, 0]], teacher_outputs=teacher_outputs
    )
    value = Objective([CrossEntropy(), *terms])(signals, 0)
    for name, weight in (("a", 2.0), ("b", 0.5)):
        alone = KD()(Signals(student, signals.targets, teacher_logits=teacher_outputs[name].logits))
        torch.testing.assert_close(value.parts[f"kd_{name}"], alone)
        value = value._replace(total=value.total - weight * alone)
    torch.testing.assert_close(value.total, value.parts["cross_entropy"])


def test_a_module_from_python_teaches(tmp_path: Path) -> None:
    module = Colour()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wanted = recipe(teacher={"given": True})
    images = source()
    finished = vitrellis.train(
        wanted, source=images, out=tmp_path / "run", teachers={"teacher": module}
    )
    assert finished.run.read_metrics()[0].parts["kd"] > 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(UsageError, match="expects modules for teacher, and was given no"):
        vitrellis.train(wanted, source=images, out=tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_in_another_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """It computes in its own type; its logits and maps come in the student's."""
    module = create_model("cifar_resnet8", num_classes=2).to(dtype)
    terms = {"kd": {}, "locality": {"student_blocks": [0], "teacher_blocks": [1]}}
    wanted = recipe(teacher={"given": True}, objective={"cross_entropy": {}, **terms})
    finished = vitrellis.train(
        wanted, source=source(), out=tmp_path / "run", teachers={"teacher": module}
    )
    parts = finished.run.read_metrics()[0].parts
    assert parts["kd"] > 0
    assert parts["locality"] > 0
    assert next(module.parameters()).dtype == dtype


class Answers(nn.Module):
    """A module that answers with whatever a function makes of the images."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images: images.mean(dim=(2, 3)), r"with \(2, 3\); logits of the 2 classes"),
        (lambda images: images, r"with \(2, 3, 16, 16\)"),
        (lambda images: {"logits": images}, "with dict"),
        (lambda images: images @ torch.ones(7, 7), "fails on images"),
        (lambda images: images.logits, "no attribute 'logits'"),
    ],
)
def test_a_module_that_is_no_classifier_of_these_images(
    tmp_path: Path, answer: Callable[[Tensor], object], message: str
) -> None:
    wanted = recipe(teacher={"given": True})
    with pytest.raises(UsageError, match=message):
        vitrellis.train(
            wanted, source=source(), out=tmp_path / "run", teachers={"teacher": Answers(answer)}
        )
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"teacher should be a torch\.nn\.Module, and is a str"):
        vitrellis.train(
            recipe(teacher={"given": True}),
            source=source(),
            out=tmp_path / "run",
            teachers={"teacher": "resnet18"},  # type: ignore[dict-item]
        )


def test_another_module_does_not_continue_a_run(tmp_path: Path) -> None:
    wanted = recipe(teacher={"given": True})
    images = source()
    out = tmp_path / "run"
    vitrellis.train(wanted, source=images, out=out, teachers={"teacher": Colour()})
    (out / "results.json").unlink()
    with pytest.raises(UsageError, match="another module as teacher"):
        vitrellis.train(wanted, source=images, out=out, teachers={"teacher": Colour(seed=1)})


def test_several_teachers_are_announced_and_add_up(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("""
extends: demo
teacher: null
teachers:
  cnn: {recipe: demo-teacher, weight: 0.5, overrides: [training.epochs=1,
        schedule.warmup_epochs=0, model.name=cifar_resnet8]}
  other: {model: cifar_resnet14, terms: [kd]}
""")
    words = [word for word in TINY if not word.startswith("teacher.")]
    said = run("train", "two.yaml", *words, FEW_IMAGES, "--out", "runs/x", cwd=tmp_path)
    times = "\N{MULTIPLICATION SIGN}"
    for text in (
        f"locality_cnn {times} 1.25",
        f"kd_cnn {times} 2 ",
        f"kd_other {times} 4 ",
        "cnn and other give the same answer for",
        "Cohen's kappa",
    ):
        assert text in said
    assert "locality_other" not in said
    assert (tmp_path / "runs/x/teacher-cnn/config.json").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"teacher": {"given": True}, "teachers": {"a": {"given": True}}}, "beside teachers"),
        ({"teachers": {"a": {"given": True, "terms": ["dkd"]}}}, "'dkd' is no term"),
        ({"teachers": {"a": {"given": True, "terms": []}}}, "none of the teachers takes part"),
        ({"teachers": {"A b": {"given": True}}}, "A b"),
        (
            {"teacher": {"given": True, "offline": True}, "augmentation": {"mixup": 0.2}},
            "augmentation.mixup: the stored outputs of teacher are about single images",
        ),
    ],
)
def test_impossible_teachers_are_refused(sections: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(**sections)
