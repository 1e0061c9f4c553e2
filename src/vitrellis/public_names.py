"""Public names: imported when they are first used, and answered with the new one where renamed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

RENAMED = {
    "analysis.rank": "analysis.block_figures",
    "cli.progress": "training.display",
    "comparison": "experiments.comparison",
    "demonstration": "experiments.demonstration",
    "data.augmentation.Augment": "data.augmentation.transforms.TrainTransform",
    "data.augmentation.Plain": "data.eval_transform.EvalTransform",
    "data.auto_augment": "data.augmentation.policies",
    "data.blur": "data.augmentation.blur",
    "data.boxes": "data.augmentation.crops",
    "data.cutout": "data.augmentation.erasing",
    "data.erasing": "data.augmentation.erasing",
    "data.geometry": "data.augmentation.resampling",
    "data.jitter": "data.augmentation.color_jitter",
    "data.mixing": "data.augmentation.mixing",
    "data.normalization": "data.augmentation.transforms",
    "data.operations": "data.augmentation.operations",
    "data.rand_augment": "data.augmentation.policies",
    "data.sources.base": "data.source",
    "data.sources.channels": "data.channels",
    "data.sources.idx": "data.formats.idx",
    "data.sources.json_files": "data.formats.json_files",
    "data.sources.mat": "data.formats.mat",
    "data.sources.plain_pickle": "data.formats.plain_pickle",
    "data.store": "data.image_store",
    "data.strata": "data.splits",
    "data.tones": "data.augmentation.tones",
    "data.warping": "data.augmentation.warps",
    "models.factory": "models.support.factory",
    "models.heads": "models.support.heads",
    "models.intermediates": "models.support.taps",
    "models.interop": "models.support.interop",
    "models.staged": "models.support.taps",
    "models.taps": "models.support.taps",
    "models.weights": "models.support.weights",
    "objectives.Taught": "objectives.TeacherOutput",
    "objectives.classification": "objectives.cross_entropy",
    "objectives.deferred": "objectives.drw",
    "objectives.features": "objectives.pooled_features",
    "objectives.label_losses": "objectives.cross_entropy",
    "objectives.long_tail": "objectives.long_tail_losses",
    "objectives.signals": "objectives.objective",
    "objectives.tame_gradient": "objectives.limit_gradient",
    "objectives.weights": "objectives.schedules",
    "recipe.AdaptiveWeight": "objectives.AdaptiveWeight",
    "recipe.OffAfterWeight": "objectives.OffAfterWeight",
    "recipe.RampWeight": "objectives.RampWeight",
    "recipe.SOURCE_NAMES": "data.sources.SOURCES",
    "recipe.Weight": "objectives.schedules.Weight",
    "recipe.augmentation": "recipe.image_sections",
    "recipe.defines": "recipe.identity",
    "recipe.drafts": "recipe.loading",
    "recipe.errors": "recipe.messages",
    "recipe.files": "recipe.loading",
    "recipe.objective": "recipe.objective_section",
    "recipe.run": "recipe.recipe",
    "recipe.teachers": "recipe.teacher_sections",
    "recipe.types": "settings",
    "report.blocks": "report.pictures",
    "report.comparison": "experiments.comparison_table",
    "report.confusion": "report.pictures",
    "report.counts": "report.pictures",
    "report.curves": "report.pictures",
    "report.results": "report.results_table",
    "report.speed": "report.pictures",
    "training.announcement": "assembly.summary",
    "training.atomic": "runs.atomic",
    "training.build": "assembly.build",
    "training.exported": "runs.exported",
    "training.faculty": "teachers.teachers",
    "training.features": "teachers.precomputed",
    "training.imported": "assembly.imported",
    "training.judging": "teachers.evaluation",
    "training.launch": "assembly.launch",
    "training.run": "runs.directory",
    "training.session": "assembly.session",
    "training.store": "runs.checkpoints",
    "training.teachers": "assembly.load_teachers",
    "training.terms": "assembly.terms",
}
"""Public names and modules of version 0.1.0 that are called otherwise now, below `vitrellis`."""


def names_of(package: str, on_demand: Mapping[str, str] | None = None) -> Callable[[str], object]:
    """The `__getattr__` of a package, which Python calls for a name that the package lacks.

    Args:
        package: The package's full name.
        on_demand: The names that are imported when they are first used, with their modules.
    """

    def attribute(name: str) -> object:
        if on_demand is not None and name in on_demand:
            return getattr(importlib.import_module(on_demand[name]), name)
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(_renamed(f"{package}.{name}") or message)

    return attribute


class OldNames:
    """A finder for `sys.meta_path` that finds nothing, and says the new names of old modules.

    Python asks it after all others, for modules and for names that are imported from a package.
    """

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Refuses a module that was renamed, and leaves all others to Python's own error.

        Raises:
            ImportError: If the module or the name has a new name.
        """
        message = _renamed(fullname)
        if message is not None:
            raise ImportError(message, name=fullname)


def _renamed(name: str) -> str | None:
    new_name = RENAMED.get(name.removeprefix("vitrellis."))
    return None if new_name is None else f"{name} is now called vitrellis.{new_name}"
