"""Where the time of a training step goes: data, teachers, student, backward pass, optimizer."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from vitrellis.assembly.launch import launch_machine, process_settings_kept
from vitrellis.assembly.parts import Parts, UserObjects, prepare_parts
from vitrellis.assembly.rehearsal import PlannedTeacher, source_of_teacher, untrained
from vitrellis.assembly.session import build_trainer
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.recipe import Recipe, teacher_recipe
from vitrellis.runs.checkpoints import RunWriter
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import save_model
from vitrellis.training.display import Display
from vitrellis.training.trainer import Trainer

PARTS = ("data", "teachers", "student", "backward", "optimizer", "rest")
"""Data are the images with their augmentation; the student's part has the loss in it."""
_WARM_UP = 3


def measure_step(recipe: Recipe, *, steps: int, trace: Path | None) -> list[dict[str, float]]:
    """Times the parts of training steps. Nothing is kept; teachers have their initial weights.

    Args:
        recipe: The recipe.
        steps: The number of steps, after three that do not count.
        trace: A file for the trace of torch.profiler, for chrome://tracing; None for no trace.

    Returns:
        The seconds of each of `PARTS`, for each step.

    Raises:
        UsageError: If the recipe does not fit.
        VitrellisError: If images cannot be read.
    """
    with process_settings_kept(), TemporaryDirectory() as folder:
        fabric = launch_machine(recipe)
        run = RunDirectory(Path(folder) / "run")
        run.path.mkdir()
        source = build_source(recipe)
        for name, settings in recipe.all_teachers.items():
            if settings.recipe is not None:
                planned = teacher_recipe(recipe, name)
                images = source_of_teacher(recipe, name, planned, source, None, recipe.data.root)
                _export(PlannedTeacher(planned, images, run), run.teacher_model(name))
        console = Console(file=io.StringIO(), quiet=True)
        parts = prepare_parts(recipe, run, source, fabric, console, UserObjects(), {})
        with Display(console, "", 1, 1) as display:
            writer = RunWriter(fabric, run, parts.export)
            trainer = build_trainer(parts, fabric, writer, display, None)
            return _timed(trainer, parts, steps, trace)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part over the steps, in seconds."""
    return {part: statistics.median(row[part] for row in rows) for part in PARTS}


def _export(teacher: PlannedTeacher, folder: Path) -> None:
    trained = untrained(teacher, 1)
    save_model(
        trained.model,
        folder,
        architecture=trained.architecture,
        num_classes=teacher.source.num_classes,
        model_args=teacher.recipe.model_arguments,
        class_names=teacher.source.class_names,
        preprocessing=trained.preprocessing,
    )


class _Clock:
    """Adds up the seconds of each part, and waits for the device at both ends of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def wrapped(self, part: str, function: Any) -> Any:
        """The function, whose seconds are added to a part."""

        def timed(*arguments: Any, **named: Any) -> Any:
            started = self.now()
            with torch.profiler.record_function(f"vitrellis: {part}"):
                result = function(*arguments, **named)
            self.seconds[part] += self.now() - started
            return result

        return timed


def _watch(trainer: Trainer, parts: Parts, clock: _Clock) -> None:
    """Times the parts of the trainer, which is thrown away afterwards."""
    for part, owner, name in (
        ("teachers", trainer.teachers, "forward"),
        ("student", parts.guided, "forward"),
        ("backward", trainer.fabric, "backward"),
        ("optimizer", trainer.optimizer, "step"),
    ):
        setattr(owner, name, clock.wrapped(part, getattr(owner, name)))


def _timed(
    trainer: Trainer, parts: Parts, steps: int, trace: Path | None
) -> list[dict[str, float]]:
    clock = _Clock(parts.place.device)
    needs = trainer.objective.teacher_needs(0)
    trainer.guided.train()
    _watch(trainer, parts, clock)
    batches = _endless(trainer)
    read = clock.wrapped("data", lambda: next(batches))

    def step(number: int) -> dict[str, float]:
        clock.seconds = dict.fromkeys(PARTS, 0.0)
        started = clock.now()
        batch = read()
        trainer.progress.step = number % trainer.loader.steps_per_epoch
        trainer.train_step(batch, needs, 0)
        clock.seconds["rest"] = clock.now() - started - sum(clock.seconds.values())
        return clock.seconds

    for number in range(_WARM_UP):
        step(number)
    if trace is None:
        return [step(number) for number in range(steps)]
    with torch.profiler.profile() as profiler:
        rows = [step(number) for number in range(steps)]
    profiler.export_chrome_trace(str(trace))
    return rows


def _endless(trainer: Trainer) -> Iterator[Any]:
    while True:
        yield from trainer.loader.epoch(0, 0)
