"""Warnings about terms that teach nothing, and notes on those that depend on portions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console
from torch import nn

import vitrellis
from tests.training.command import FEW_IMAGES, write_few_images
from tests.training.tiny import guided_weights, tiny
from vitrellis.assembly.term_notes import (
    notes_on_gradients,
    notes_on_portions,
    notes_on_pruned_maps,
)
from vitrellis.errors import UsageError
from vitrellis.objectives import (
    DKD,
    KD,
    MLKD,
    CrossEntropy,
    LocalityGuidance,
    OffAfter,
    PaCo,
    Ramp,
    Term,
)
from vitrellis.recipe import load_recipe
from vitrellis.recipe.pruning_section import Pruning
from vitrellis.training.portions import Portions

BLOCKS: dict[str, Any] = {
    "student_blocks": [0],
    "teacher_blocks": [0],
    "student_channels": [4],
    "teacher_channels": [4],
}


def paco() -> PaCo:
    return PaCo(
        student=nn.Linear(1, 1),
        block=0,
        channels=4,
        class_counts=torch.tensor([3, 2]),
        maps_of=lambda model, images, blocks: (None, []),
    )


@pytest.mark.parametrize(
    ("term", "named"),
    [
        (KD(weight=0), "kd.weight"),
        (KD(weight=Ramp(0.0, to=0.0, epochs=3)), "kd.weight"),
        (KD(weight=OffAfter(1.0, epoch=0)), "kd.weight"),
        (KD(standardize=True), "kd.standardize: true"),
        (MLKD(standardize=True), "mlkd.standardize: true"),
        (DKD(), "dkd.beta: 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_terms_that_teach_nothing_are_named(term: Term, named: str) -> None:
    (note,) = notes_on_gradients([CrossEntropy(), term], num_classes=2, epochs=4)
    assert named in note


def test_what_has_a_gradient_is_not_named() -> None:
    """A weight that is 0 at first is not 0 in every epoch."""
    ramp = Ramp(0.0, to=1.0, epochs=4)
    terms = [CrossEntropy(), KD(), MLKD(weight=ramp), DKD(beta=0.0)]
    assert notes_on_gradients(terms, num_classes=2, epochs=4) == []
    off = CrossEntropy(weight=0)
    off.key = "objective.cross_entropy"
    assert notes_on_gradients([off], num_classes=3, epochs=4) == []


def test_what_depends_on_portions_is_named() -> None:
    terms = [
        CrossEntropy(),
        KD(),
        MLKD(),
        paco(),
        LocalityGuidance(**BLOCKS),
        LocalityGuidance(**BLOCKS, transform="similarity", name="similar"),
    ]
    models = {"the student": nn.BatchNorm2d(2), "the teacher": nn.LayerNorm(2)}
    assert notes_on_portions(terms, models, accumulate=1, world_size=1) == []
    notes = notes_on_portions(terms, models, accumulate=2, world_size=1)
    for note, named in zip(notes, ["mlkd", "paco", "similar", "the student"], strict=True):
        assert named in note
        assert "2 portions" in note
        assert note.endswith("training.accumulate")
    both = notes_on_portions(terms[2:3], {}, accumulate=2, world_size=3)
    assert "6 portions" in both[0]
    assert both[0].endswith("training.accumulate and machine.devices")


def test_a_run_says_what_teaches_nothing_and_stays_the_same(tmp_path: Path) -> None:
    """The check of the first batch changes no bit and no random number: dropout is on."""
    settings: dict[str, Any] = {"training__accumulate": 2, "training__epochs": 1}
    settings["model"] = {"name": "vit_micro_patch7_28", "args": {"drop_path_rate": 0.5}}
    checked = guided_weights(tiny(tmp_path, "checked", **settings))
    with mock.patch.object(Portions, "_is_unchecked", return_value=False):
        plain = guided_weights(tiny(tmp_path, "plain", **settings))
    assert all(torch.equal(checked[name], plain[name]) for name in plain)


def test_a_silent_term_is_named_in_its_first_batch(tmp_path: Path) -> None:
    """A term of one's own, which begins in the second of three epochs."""

    class Constant(Term):
        def forward(self, signals: vitrellis.objectives.Signals) -> torch.Tensor:
            return signals.logits.detach().mean()

    settings = ["data.train_size=20", "data.val_fraction=0", "model.name=vit_micro_patch7_28"]
    settings += ["training.epochs=3", "schedule.warmup_epochs=0", "machine.accelerator=cpu"]
    write_few_images((FEW_IMAGES,), tmp_path)
    late = Constant("late", weight=Ramp(0.0, to=1.0, epochs=2))
    console = Console(file=io.StringIO(), record=True, width=300)
    recipe = load_recipe("demo-alone", [*settings, f"data.root={tmp_path / 'fashion'}"])
    vitrellis.train(recipe, out=tmp_path / "run", console=console, terms=[late])
    lines = [line for line in console.export_text().splitlines() if "warning: late" in line]
    assert len(lines) == 1
    assert "zero in the first batch of epoch 2" in lines[0]


def test_a_head_that_is_missing_is_refused_before_a_teacher_is_trained(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["objective.kd.head=distillation"])
    with pytest.raises(UsageError, match=r"objective\.kd\.head"):
        vitrellis.train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weight", "block", "is_named"),
    [
        (2.0, 3, True),
        (2.0, 2, False),  # the layer before the first that leaves tokens out
        (OffAfter(2.0, epoch=5), 3, False),
        (OffAfter(2.0, epoch=6), 3, True),
        (Ramp(0.0, to=1.0, epochs=9), 3, True),
    ],
)
def test_maps_in_which_tokens_are_missing_are_named(
    weight: Any, block: int, is_named: bool
) -> None:
    pruning = Pruning(from_epoch=5, until_epoch=8)
    term = LocalityGuidance(weight=weight, **(BLOCKS | {"student_blocks": [block]}))
    notes = notes_on_pruned_maps([term, KD(weight=1)], pruning, epochs=10)
    assert len(notes) == is_named
    assert all("locality" in note and "block 3" in note and "epoch 6" in note for note in notes)
    assert all("off_after: 5" in note for note in notes)
