"""Makes a run directory from a published checkpoint, to evaluate it or take it as a teacher.

The settings of its training are not imported: the recipe of such a run describes the model and the
preprocessing only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo
from timm.models import PretrainedCfg
from torch import Tensor, nn

from vitrellis.assembly.build import (
    build_preprocessing,
    preprocessing_of,
)
from vitrellis.assembly.normalization import given_normalization
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import (
    check_arguments,
    create_model,
    load_reference_weights,
    read_state_dict,
)
from vitrellis.models.support.factory import known_grids
from vitrellis.models.support.interop import check_source, norm_eps_of, published_state
from vitrellis.models.support.positions import Grid, MadeFor
from vitrellis.recipe import Recipe, describe, recipe_from
from vitrellis.runs import marker
from vitrellis.runs.checksums import write_sealed_json, write_sealed_text
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, save_model
from vitrellis.runs.places import check_folder
from vitrellis.runs.provenance import record_start
from vitrellis.runs.results import RunData

WHOLE_IMAGES = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
"""How tiny-transformers evaluates; the other implementations do it as DeiT does."""
CROPPED_ABOVE = 32
"""The side in pixels of DeiT's images above which evaluation cuts out the middle."""


def import_checkpoint(
    checkpoint: Path,
    *,
    source: str,
    model: str,
    out: Path,
    overrides: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    ema: bool = False,
) -> RunDirectory:
    """Writes a run directory with the weights of a published implementation.

    Args:
        checkpoint: A file of that implementation: a state dict, alone or with optimizer, settings
            and averages around it, from data-parallel training or not.
        source: The implementation; see `vitrellis.models.support.interop.PUBLISHERS`.
        model: The name of the architecture in Vitrellis.
        out: A new folder.
        overrides: Changes to the recipe: `data.*` names the images to evaluate it on, `input.*` is
            the preprocessing that it expects, and `model.args.*` are arguments of the model.
        class_names: The class names in the order of its outputs. By default they are those of the
            data, or numbers.
        ema: Take the moving average of the weights that the checkpoint holds.

    Raises:
        UsageError: If the source, model, overrides, class names or folder do not fit.
        VitrellisError: If the file cannot be read, or holds another model.
    """
    check_source(source)
    checkpoint = checkpoint.expanduser()
    run = RunDirectory(out)
    check_new(run)
    recipe = _recipe(checkpoint, source, model, overrides)
    check_arguments(recipe.model.args, "model.args")
    stored = read_state_dict(checkpoint, ema=ema)
    state = published_state(stored, source)
    num_classes = _num_classes(recipe, state, str(checkpoint))
    data = _images(recipe, overrides)
    names = _class_names(class_names, data, num_classes, source)
    preprocessing = build_preprocessing(recipe, data) if data else _preprocessing(recipe, state)
    built = create_model(
        model,
        num_classes=num_classes,
        img_size=preprocessing.img_size,
        in_chans=preprocessing.channels,
        **recipe.model_arguments,
    )
    grids = _grids(recipe, built, preprocessing, checkpoint)
    load_reference_weights(built, stored, source, label=str(checkpoint), grids=grids)
    marker.write_marker(run)
    for folder in (run.best_model, run.last_model):
        save_model(
            built,
            folder,
            architecture=model,
            num_classes=num_classes,
            model_args=_arguments(recipe, source, built),
            class_names=names,
            preprocessing=preprocessing,
        )
    run.write_data(
        RunData(
            fingerprint=None if data is None else data.fingerprint(),
            class_names=names,
            class_counts=None if data is None else tuple(data.class_counts.tolist()),
        )
    )
    record_start(run.provenance_file)
    origin = {
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "source": source,
        "ema": ema,
    }
    write_sealed_json(run.imported_file, origin)
    write_sealed_text(run.recipe_file, describe(recipe))
    return run


def check_new(run: RunDirectory) -> None:
    """Makes sure that a folder is new, empty, or was left half-written by an import.

    Raises:
        UsageError: If it is not.
    """
    check_folder(run.path)
    if run.path.exists() and any(run.path.iterdir()) and not _is_half_imported(run):
        raise UsageError(f"{run.path}: is not empty. Use another --out")


def _is_half_imported(run: RunDirectory) -> bool:
    """Whether an import was killed here: what it wrote is written again."""
    trained = (run.last_checkpoint, run.best_checkpoint, run.metrics_file)
    if run.exists() or any(file.exists() for file in trained):
        return False
    return run.marker_file.is_file() and not marker.other_files(run)


def _recipe(checkpoint: Path, source: str, model: str, overrides: Sequence[str]) -> Recipe:
    cfg = timm.get_pretrained_cfg(model.split(".")[0])
    size = list(cfg.input_size[1:]) if cfg is not None else [224, 224]
    values = {
        "description": f"imported from {checkpoint.name} ({source}); how it was trained is unknown",
        "input": {
            "img_size": size,
            "normalization": "imagenet",
            **_evaluation(source, size, cfg),
        },
        "model": {"name": model},
        "schedule": {"warmup_epochs": 0},
        "training": {"epochs": 1},
    }
    return recipe_from(values, overrides, name="imported")


def _evaluation(source: str, size: list[int], cfg: PretrainedCfg | None) -> dict[str, object]:
    """The keys of `input` that say how the implementation resizes test images."""
    if source == "tiny-transformers":
        return WHOLE_IMAGES
    if source == "efficientnet-lite" and cfg is not None:  # timm's numbers are the published ones
        keys = {"normalization": "model", "interpolation": cfg.interpolation}
        return keys | {"crop_pct": cfg.crop_pct, "crop_mode": "center"}
    share = 0.875 if min(size) > CROPPED_ABOVE else 1.0  # DeiT: 256 / 224, int() of it
    return {"interpolation": "bicubic", "crop_pct": share, "crop_mode": "center"}


def _num_classes(recipe: Recipe, state: dict[str, Tensor], label: str) -> int:
    """The number of classes, from the shape of the classifier's weight."""
    name, args = recipe.model.name, recipe.model_arguments
    with torch.device("meta"):
        model: Any = create_model(name, num_classes=1, **args)
    classifier = model.pretrained_cfg["classifier"]
    key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    if key not in state:
        raise VitrellisError(
            f"{label}: not the weights of {name}: it has no {key}. It holds "
            f"{', '.join(list(state)[:3])}, ..."
        )
    shape = list(state[key].shape)
    if len(shape) != 2 or model.num_features not in shape:
        raise VitrellisError(
            f"{label}: not the weights of {name}: {key} has shape {tuple(shape)}, one side of "
            f"which should be {model.num_features}"
        )
    shape.remove(model.num_features)
    return int(shape[0])


def _arguments(recipe: Recipe, source: str, model: nn.Module) -> dict[str, Any]:
    """The arguments that the model is built with when the run is read."""
    norm_eps = norm_eps_of(source, model)
    return recipe.model_arguments | ({} if norm_eps is None else {"norm_eps": norm_eps})


def _grids(
    recipe: Recipe, model: nn.Module, preprocessing: Preprocessing, checkpoint: Path
) -> Mapping[str, Grid]:
    """The grids of the checkpoint's position embeddings, if `init.weights_img_size` tells."""
    size = recipe.init.weights_img_size
    if size is None:
        return {}
    arguments = recipe.model_arguments | {
        "img_size": preprocessing.img_size,
        "in_chans": preprocessing.channels,
    }
    known = MadeFor((size, size) if isinstance(size, int) else size)
    return known_grids(model, recipe.model.name, known, str(checkpoint), arguments)


def _images(recipe: Recipe, overrides: Sequence[str]) -> Source | None:
    """The images to evaluate on, if any are named."""
    is_named = any(override.startswith("data.") for override in overrides)
    return build_source(recipe) if is_named else None


def _class_names(
    names: Sequence[str] | None, data: Source | None, num_classes: int, source: str
) -> tuple[str, ...]:
    if names is None and data is not None:
        names = data.class_names
    elif names is None and source == "efficientnet-lite" and num_classes == len(_imagenet()):
        names = _imagenet()
    elif names is None:
        names = [str(k) for k in range(num_classes)]
    if len(names) != num_classes:
        raise UsageError(f"{len(names)} class names for a model of {num_classes} classes")
    return tuple(names)


def _imagenet() -> list[str]:
    """The names of the 1,000 classes of ImageNet; equal ones with their numbers."""
    info = ImageNetInfo()
    names = [info.index_to_description(k).split(",")[0] for k in range(info.num_classes())]
    return [
        name if names.count(name) == 1 else f"{name} ({info.index_to_label_name(k)})"
        for k, name in enumerate(names)
    ]


def _preprocessing(recipe: Recipe, state: dict[str, Tensor]) -> Preprocessing:
    """The preprocessing, as far as it is known without images."""
    settings = recipe.input
    channels = settings.channels if settings.channels is not None else _channels(recipe, state)
    return preprocessing_of(recipe, channels, given_normalization(recipe, channels))


def _channels(recipe: Recipe, state: dict[str, Tensor]) -> int:
    """The number of image channels, from the first convolution's weight; 3 if there is none."""
    cfg = timm.get_pretrained_cfg(recipe.model.name.split(".")[0])
    weight = state.get(f"{cfg.first_conv}.weight") if cfg is not None else None
    return int(weight.shape[1]) if weight is not None and weight.ndim == 4 else 3
