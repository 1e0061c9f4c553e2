"""The maps that a finished run's guidance compares, for images of one's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitrellis.analysis.guided_maps import GuidedPair
from vitrellis.assembly.build import build_teacher
from vitrellis.assembly.terms import build_objective
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import forward_with_maps
from vitrellis.objectives import LocalityGuidance, Needs, Objective
from vitrellis.recipe import Recipe, load_recipe
from vitrellis.runs.checkpoints import read_checkpoint
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Trained, load_exported
from vitrellis.teachers.teachers import Teachers

_OBJECTIVE = "objective."
"""The prefix of the objective's weights in a checkpoint's `guided`."""


@torch.no_grad()
def guided_maps(
    run: RunDirectory, trained: Trained, images: Sequence[Tensor], *, best: bool = True
) -> list[GuidedPair]:
    """The maps of student and teacher at each guided depth, on the CPU.

    Args:
        run: The run, which keeps its teachers.
        trained: Its model, of the epoch that `best` says, on the device that computes.
        images: uint8 `(C, H, W)` of any sizes.
        best: Whether to take the projections of the best epoch, or of the last one.

    Raises:
        UsageError: If no term of the run's recipe compares maps.
        VitrellisError: If a file of the run is missing or damaged.
    """
    recipe = load_recipe(run.recipe_file)
    if not any(term.key == "locality" for term in recipe.objective.terms.values()):
        raise UsageError(
            f"{run.path}: was trained without locality guidance (objective.locality), so there are "
            "no maps to compare"
        )
    teachers = _teachers(recipe, run, trained)
    device = next(trained.model.parameters()).device
    objective = _objective(recipe, run, trained, teachers, best=best).to(device)
    teachers.to(device)
    terms = [term for term in objective.all_terms() if isinstance(term, LocalityGuidance)]
    model = trained.model.to(device)
    seen = trained.preprocessing.transform()(list(images)).to(device)
    pairs = []
    for term in terms:
        _, maps = forward_with_maps(model, seen, term.student_blocks)
        teacher = dict(teachers.items())[term.teacher]
        output = teacher(seen, Needs(teacher_blocks=term.teacher_blocks))
        mixed = term.mix(dict(zip(term.student_blocks, maps, strict=True)))
        projected = term.project(mixed) if term.projections else [None] * len(mixed)
        for number, block in enumerate(term.teacher_blocks):
            student = "mixture" if term.learned else f"block {term.student_blocks[number]}"
            whose = "" if len(terms) == 1 else f" of {term.teacher}"
            name = f"{student} → stage {block}{whose}"
            answer = projected[number]
            pairs.append(
                GuidedPair(
                    name,
                    mixed[number].cpu(),
                    None if answer is None else answer.cpu(),
                    output.maps[block].cpu(),
                )
            )
    return pairs


def _teachers(recipe: Recipe, run: RunDirectory, trained: Trained) -> Teachers:
    teachers = {}
    for name, settings in recipe.all_teachers.items():
        if settings.given:
            raise UsageError(
                f"{run.path}: its teacher {name!r} is a module from Python, of which a run keeps "
                "no copy"
            )
        teachers[name] = build_teacher(
            name,
            settings,
            load_exported(run.teacher_model(name)),
            trained.class_names,
            trained.preprocessing,
            compiled=False,
        )
    return Teachers(teachers)


def _objective(
    recipe: Recipe, run: RunDirectory, trained: Trained, teachers: Teachers, *, best: bool
) -> Objective:
    """The objective with what it had learned."""
    counts = run.read_data().class_counts
    assert counts is not None, "a run that was trained has counted its images"
    objective = build_objective(
        recipe,
        trained.model.cpu(),
        trained.preprocessing,
        teachers,
        class_counts=torch.tensor(counts),
    )
    path = run.best_checkpoint if best and run.best_checkpoint.exists() else run.last_checkpoint
    stored = read_checkpoint(path)["guided"]
    state = {
        name.removeprefix(_OBJECTIVE): value
        for name, value in stored.items()
        if name.startswith(_OBJECTIVE)
    }
    try:
        objective.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise VitrellisError(
            f"{path}: holds the weights of other terms than recipe.yaml names ({reason})"
        ) from error
    return objective
