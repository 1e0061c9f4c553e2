"""A term is declared once: Python and recipes agree on defaults, and one file adds a term."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitrellis
from vitrellis.data.long_tail import LongTail
from vitrellis.models import forward_with_maps
from vitrellis.objectives import (
    TERMS,
    Adaptive,
    AdaptiveWeight,
    Constant,
    CrossEntropySection,
    Deferred,
    DeferredSection,
    OffAfter,
    OffAfterWeight,
    Ramp,
    RampWeight,
    Softmax,
    Term,
    TermContext,
    TermSection,
    effective_number_weights,
)
from vitrellis.recipe.image_sections import LongTailSection
from vitrellis.settings import Section

TERM_FILES = {
    "caution": '''
from typing import ClassVar

from torch import Tensor

from vitrellis.objectives.objective import Signals, Term
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.term_sections import TermContext, TermSection
from vitrellis.settings import NonNegative


def caution_loss(logits: Tensor, *, power: float = 1.0) -> Tensor:
    log_probs = logits.float().log_softmax(dim=-1)
    return (log_probs.exp() * -log_probs.abs() ** power).sum(dim=-1).mean()


class Caution(Term):
    def __init__(
        self, *, power: float = 1.0, weight: WeightSchedule | float = 0.1, name: str = "caution"
    ) -> None:
        super().__init__(name, weight=weight)
        self.power = power

    def forward(self, signals: Signals) -> Tensor:
        return caution_loss(signals.logits, power=self.power)


class CautionSection(TermSection):
    """Keeps the student from being too sure."""

    key: ClassVar[str] = "caution"

    weight: NonNegative = 0.1
    power: NonNegative = 1.0
    """The exponent of the log-probabilities."""

    def build(self, context: TermContext) -> Caution:
        return Caution(name=context.name, weight=context.weight, **self.settings())
''',
    "likeness": '''
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from vitrellis.objectives.objective import Needs, Signals, Term
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.term_sections import TermContext, TermSection


def likeness_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return F.mse_loss(student_logits, teacher_logits.detach())


class Likeness(Term):
    def __init__(self, *, weight: WeightSchedule | float = 1.0, name: str = "likeness") -> None:
        super().__init__(name, weight=weight, needs=Needs(teacher_logits=True))

    def forward(self, signals: Signals) -> Tensor:
        return likeness_loss(signals.logits, signals.teacher_logits)


class LikenessSection(TermSection):
    """Imitates the teacher's logits as they are."""

    key: ClassVar[str] = "likeness"
    needs_teacher: ClassVar[bool] = True

    def build(self, context: TermContext) -> Likeness:
        return Likeness(name=context.name, weight=context.weight)
''',
}
"""New terms as a contributor would write them; the second learns from a teacher."""

SCRIPT = """
import json, sys
from pathlib import Path

import torch
import vitrellis
from vitrellis.cli.main import main
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.recipe import recipe_from, without_guidance

def refused(objective):
    try:
        recipe_from(minimal | {"objective": objective})
    except UsageError as error:
        return str(error)

minimal = {
    "model": {"name": "cifar_resnet8"},
    "data": {"val_fraction": 0.25},
    "input": {"img_size": 8},
    "training": {"epochs": 1, "batch_size": 12},
    "machine": {"accelerator": "cpu", "threads": 1},
}
both = {"caution": {"power": 2, "weight": 0.5}, "likeness": {}}
recipe = recipe_from(minimal | {"objective": both, "teacher": {"given": True}})
images = torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
source = vitrellis.from_tensors(images.to(torch.uint8), torch.arange(16) % 2)
teacher = create_model("cifar_resnet8", num_classes=2, in_chans=3)

def train(recipe, name, **teachers):
    run = vitrellis.train(recipe, source=source, out=Path(sys.argv[1]) / name, **teachers).run
    (row,) = (run.path / "metrics.jsonl").read_text().splitlines()
    return json.loads(row)

print(json.dumps({
    "path": vitrellis.__file__,
    "misspelt": refused({"cautoin": {}}),
    "out of range": refused({"caution": {"power": -1}}),
    "without a teacher": refused({"likeness": {}}),
    "guided": train(recipe, "guided", teachers={"teacher": teacher}),
    "alone": train(without_guidance(recipe), "alone"),
}))
sys.argv = ["vitrellis", "recipes", "keys", "objective.caution"]
main()
"""


class _Model:
    """A model with four blocks, all with maps of eight channels."""

    model: nn.Module = nn.Identity()

    def num_blocks(self) -> int:
        return 4

    def channels(self, blocks: Sequence[int]) -> list[int]:
        return [8] * len(blocks)


def section_of(term: type[TermSection]) -> TermSection:
    """The section as a recipe without other keys gives it; keys without a default are blocks."""
    blocks = {key: (0, 1, 2) for key, field in term.model_fields.items() if field.is_required()}
    return term.model_validate(blocks)


def built(section: TermSection) -> Term:
    context = TermContext(
        name=section.key,
        weight=Constant(1.0),
        student=_Model(),
        teacher=_Model(),
        class_counts=torch.tensor([3, 2, 1]),
        phases={},
        forward_with_maps=forward_with_maps,
    )
    return section.build(context)


def declared_beside(section: type[Section]) -> list[Callable[..., Any]]:
    """The functions and modules in the file of a section, in which a setting may have a default."""
    return [
        item
        for item in vars(sys.modules[section.__module__]).values()
        if callable(item)
        and getattr(item, "__module__", None) == section.__module__
        and (inspect.isfunction(item) or (inspect.isclass(item) and issubclass(item, nn.Module)))
    ]


def differences(
    section: type[Section], parts: Sequence[Callable[..., Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose default is not that of the argument of the same name, with both values."""
    for key, field in section.model_fields.items():
        for part in parts:
            argument = inspect.signature(part).parameters.get(key)
            if argument is None or argument.default is argument.empty or field.is_required():
                continue
            if field.get_default() != argument.default:
                yield f"{section.__name__}.{key}", field.get_default(), argument.default


def arguments(parts: Sequence[Callable[..., Any]]) -> set[str]:
    return {name for part in parts for name in inspect.signature(part).parameters}


def test_recipes_and_python_have_the_same_defaults() -> None:
    parts: dict[type[TermSection], list[Callable[..., Any]]] = {
        section: [type(built(section_of(section))), *declared_beside(section)] for section in TERMS
    }
    different = {row for section in TERMS for row in differences(section, parts[section])}
    assert different == {
        # a name in recipes, and a module in Python
        ("CrossEntropySection.loss", "softmax", None),
        # the weight that suits one of the transforms of `LocalityGuidance`, under a key of its own
        ("AttentionTransferSection.weight", 1000.0, 2.5),
    }
    term = built(CrossEntropySection())
    assert isinstance(term.loss, Softmax)
    unknown = {
        f"{section.__name__}.{key}"
        for section in TERMS
        for key in section.model_fields.keys() - arguments(parts[section])
    }
    assert unknown == set()


@pytest.mark.parametrize(
    ("section", "parts", "only_in_recipes"),
    [
        (RampWeight, [Ramp], set()),
        (OffAfterWeight, [OffAfter], {"off_after"}),  # `epoch` of the class, which has no default
        (AdaptiveWeight, [Adaptive], {"adaptive"}),
        # for the recipe alone: when the phase begins, and what else it changes
        (
            DeferredSection,
            [Deferred, effective_number_weights],
            {"after_epochs", "share", "reweight", "mixing"},
        ),
        (LongTailSection, [LongTail], set()),
    ],
)
def test_other_sections_have_the_defaults_of_what_they_build(
    section: type[Section], parts: Sequence[Callable[..., Any]], only_in_recipes: set[str]
) -> None:
    assert list(differences(section, parts)) == []
    assert section.model_fields.keys() - arguments(parts) == only_in_recipes


def test_a_new_term_is_one_file_and_one_export(tmp_path: Path) -> None:
    package = tmp_path / "vitrellis"
    shutil.copytree(Path(vitrellis.__file__).parent, package)
    room = package / "objectives"
    exports = (room / "__init__.py").read_text()
    for name, text in TERM_FILES.items():
        (room / f"{name}.py").write_text(text)
        section = f"{name.capitalize()}Section"
        exports = exports.replace(
            "\nTERMS:", f"from vitrellis.objectives.{name} import {section}\n\nTERMS:"
        ).replace(
            "    AttentionTransferSection,\n)", f"    {section},\n    AttentionTransferSection,\n)"
        )
    (room / "__init__.py").write_text(exports)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    first, *table = ended.stdout.splitlines()
    results = json.loads(first)
    assert results["path"] == str(package / "__init__.py")
    assert "objective.cautoin: unknown key. Did you mean 'caution'?" in results["misspelt"]
    assert "objective.caution.power: -1 is too small" in results["out of range"]
    assert "teacher: missing, but needed by objective.likeness" in results["without a teacher"]
    guided, alone = results["guided"], results["alone"]
    assert guided["parts"]["likeness"] > 0
    assert alone["weights"] == {"cross_entropy": 1.0, "caution": 0.5}
    for row in (guided, alone):
        assert row["step"] == 1
        total = sum(row["weights"][name] * value for name, value in row["parts"].items())
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    assert any("The exponent of the log-probabilities." in line for line in table)
