"""No public name of an earlier version is gone without a word: the error says the new one."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import pytest

import vitrellis
from vitrellis.public_names import RENAMED

OLD_NAMES = {
    "vitrellis": """
create_model forward_with_maps from_dataset from_tensors load_exported load_recipe train
""",
    "vitrellis.models": """
IN_TIMM block_channels create_model forward_with_maps has_distillation_head list_models load_initial
load_reference_weights load_strictly num_blocks read_state_dict separate_heads set_heads_apart
takes_img_size
""",
    "vitrellis.objectives": """
CTKD DKD KD LDAM MLKD Adaptive Constant CrossEntropy Deferred Focal FollowingTerm HardDistillation
LabelLoss LocalityGuidance LogitAdjustment LogitTerm Needs Objective ObjectiveValue OffAfter PaCo
PooledFeatures Ramp Signals Softmax Taught Term WeightSchedule decoupled_distillation
effective_number_weights hard_distillation locality_loss multi_level_distillation paco_loss
pooled_imitation soft_cross_entropy soft_distillation standardize tame_gradient
""",
    "vitrellis.recipe": """
SOURCE_NAMES AdaptiveWeight OffAfterWeight RampWeight Recipe TeacherSection View Weight defines
describe differences digest effective_lr header load_recipe packaged_recipes recipe_from
teacher_recipe with_epochs without_guidance
""",
}
"""`__all__` of each package at commit ee34e50; the other packages had none."""

OLD_MODULES = """
__init__ __main__ analysis analysis.attention analysis.breakdown analysis.cost analysis.groups
analysis.inference analysis.metrics analysis.paired analysis.rank cli cli.bench cli.compare
cli.console cli.demo cli.evaluate cli.features cli.figures cli.import_checkpoint cli.main
cli.models cli.predict cli.progress cli.recipes cli.show cli.train comparison data
data.augmentation data.auto_augment data.blur data.boxes data.canvas data.cutout data.erasing
data.geometry data.jitter data.loader data.long_tail data.mixing data.normalization
data.operations data.rand_augment data.randomness data.sampling data.sources data.sources.base
data.sources.channels data.sources.chaoyang data.sources.cifar data.sources.decoding
data.sources.elpv data.sources.fashion_mnist data.sources.files data.sources.flowers102
data.sources.folder data.sources.idx data.sources.inaturalist data.sources.json_files
data.sources.lists data.sources.mat data.sources.memory data.sources.names
data.sources.plain_pickle data.sources.tiny_imagenet data.splits data.store data.strata
data.tones data.warping demonstration errors models models.cifar_resnet models.cvt models.dhvt
models.evit models.factory models.heads models.intermediates models.interop models.pvt
models.small_vit models.staged models.t2t models.taps models.weights objectives
objectives.classification objectives.curriculum objectives.decoupled objectives.deferred
objectives.distillation objectives.features objectives.label_losses objectives.locality
objectives.long_tail objectives.multi_level objectives.objective objectives.paco
objectives.precision objectives.signals objectives.standardization objectives.weights recipe
recipe.augmentation recipe.drafts recipe.errors recipe.files recipe.objective recipe.run
recipe.sections recipe.teachers recipe.types recipe.yaml report report.blocks report.comparison
report.confusion report.counts report.curves report.hardware report.results report.speed
training training.announcement training.atomic training.build training.display training.exported
training.faculty training.features training.guided training.imported training.interrupts
training.judging training.launch training.optimizers training.run training.sam training.session
training.store training.teachers training.terms training.trainer
"""
"""All modules at that commit, below `vitrellis`."""


def by_full_name(name: str) -> object:
    module, _, attribute = f"vitrellis.{name}".rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("package", OLD_NAMES)
def test_an_old_name_is_there_or_its_new_name_is_said(package: str) -> None:
    module = importlib.import_module(package)
    for name in OLD_NAMES[package].split():
        new = RENAMED.get(f"{package}.{name}".removeprefix("vitrellis."))
        if new is None:
            assert name in module.__all__
            assert hasattr(module, name)
            continue
        assert not hasattr(module, name)
        assert by_full_name(new) is not None
        message = f"{package}.{name} is now called vitrellis.{new}"
        with pytest.raises(AttributeError, match=message):
            getattr(module, name)
        with pytest.raises(ImportError, match=message):
            exec(f"from {package} import {name}")


def test_an_old_module_is_there_or_its_new_name_is_said() -> None:
    for old in OLD_MODULES.split():
        name = "vitrellis" if old == "__init__" else f"vitrellis.{old}"
        if old not in RENAMED:
            assert find_spec(name) is not None, name
            continue
        assert find_spec(f"vitrellis.{RENAMED[old]}") is not None, RENAMED[old]
        with pytest.raises(ImportError, match=f"{name} is now called vitrellis.{RENAMED[old]}"):
            importlib.import_module(name)


def test_names_of_an_old_module_that_is_a_package_now() -> None:
    names = {
        "Augment": "data.augmentation.transforms.TrainTransform",
        "Plain": "data.eval_transform.EvalTransform",
    }
    for old, new in names.items():
        message = f"is now called vitrellis.{new}"
        assert by_full_name(new) is not None
        with pytest.raises(ImportError, match=message):
            exec(f"from vitrellis.data.augmentation import {old}")


def test_other_names_are_missing_as_anywhere_else() -> None:
    with pytest.raises(AttributeError, match="module 'vitrellis' has no attribute 'tarin'"):
        getattr(vitrellis, "tarin")  # noqa: B009
    with pytest.raises(ModuleNotFoundError, match=r"'vitrellis\.tarin'"):
        importlib.import_module("vitrellis.tarin")
    with pytest.raises(ImportError, match="cannot import name 'Recipee'"):
        exec("from vitrellis.recipe import Recipee")


def test_dir_lists_what_is_imported_later() -> None:
    for package in ("vitrellis", "vitrellis.recipe"):
        module = importlib.import_module(package)
        assert set(module.__all__) <= set(dir(module))
