"""Where a run's teacher comes from: a recipe, another run, or a timm model.

The run keeps a copy of the teacher in `teacher/`, so that it can be continued when the original is
gone.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric
from torch import Tensor, nn

from vitrellis.data.sources import Source
from vitrellis.models import create_model
from vitrellis.objectives import Needs
from vitrellis.recipe import Recipe, defines, digest, teacher_recipe
from vitrellis.training.atomic import atomic_write
from vitrellis.training.build import build_teacher
from vitrellis.training.exported import Preprocessing, load_exported, save_model
from vitrellis.training.guided import Teacher
from vitrellis.training.run import RunDirectory, find_run


def teacher_folder(teacher: Recipe, run: RunDirectory) -> Path:
    """Where the teacher of a run is trained: beside it, under what defines the teacher."""
    return run.path.parent / "teachers" / f"{teacher.name}-{digest(defines(teacher))}"


def load_teacher(
    recipe: Recipe, run: RunDirectory, source: Source, student: Preprocessing, fabric: Fabric
) -> Teacher | None:
    """The recipe's teacher on the device, or None if the recipe has none.

    Raises:
        VitrellisError: If its files are missing or damaged.
        UsageError: If its classes or channels are not the student's.
    """
    settings = recipe.teacher
    if settings is None:
        return None
    folder = run.teacher_model
    if fabric.is_global_zero and not (folder / "config.json").exists():
        if settings.model is not None:
            _export_named(recipe, source, student, folder)
        elif settings.run is not None:
            _copy_model(find_run(settings.run).best_model, folder)
        else:
            _copy_model(
                RunDirectory(teacher_folder(teacher_recipe(recipe), run)).best_model, folder
            )
    fabric.barrier()
    teacher = build_teacher(recipe, load_exported(folder), source, student)
    return teacher.to(fabric.device)


class TeacherClassifier(nn.Module):
    """The teacher as a plain classifier of the student's images, to see how good it is.

    Args:
        teacher: The teacher.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of `(B, C, H, W)` images, normalised as for the student."""
        logits, _ = self.teacher(images, Needs(teacher_logits=True))
        assert isinstance(logits, Tensor)
        return logits


def _copy_model(origin: Path, folder: Path) -> None:
    load_exported(origin)  # a damaged one is refused here, under its own path
    folder.mkdir(exist_ok=True)
    for name in ("model.safetensors", "config.json"):  # the config last: it marks completeness
        atomic_write(folder / name, functools.partial(shutil.copyfile, origin / name))


def _export_named(recipe: Recipe, source: Source, student: Preprocessing, folder: Path) -> None:
    """Writes a timm model with its weights; it is shown images normalised as the student's."""
    settings = recipe.teacher
    assert settings is not None
    assert settings.model is not None
    size = student.img_size
    if settings.img_size is not None:
        side = settings.img_size
        size = (side, side) if isinstance(side, int) else side
    model = create_model(
        settings.model,
        num_classes=source.num_classes,
        img_size=size,
        in_chans=student.channels,
        pretrained=settings.pretrained,
        weights=settings.weights,
        **settings.args,
    )
    save_model(
        model,
        folder,
        architecture=settings.model,
        num_classes=source.num_classes,
        model_args=settings.args,
        class_names=source.class_names,
        preprocessing=replace(student, img_size=size),
    )
