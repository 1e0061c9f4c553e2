"""Which architecture and which file of weights a recipe means: of timm, a folder, the Hub or a run.

What a `config.json` of a folder or of the Hub says is kept in the run, which can then be resumed
without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from vitrellis.assembly.pretrained import for_channels, pretrained_normalization
from vitrellis.assembly.recipe_keys import OF_STUDENT, arguments_under
from vitrellis.errors import UsageError, blaming
from vitrellis.models.support.described_models import (
    CONFIG,
    DescribedModel,
    folder_of,
    is_described,
    read_description,
)
from vitrellis.recipe import Recipe
from vitrellis.recipe.image_sections import ChannelStatistics
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import parse


@dataclass(frozen=True)
class ModelOrigin:
    """A model in timm's terms.

    Attributes:
        name: The name of the architecture.
        args: Its arguments.
        pretrained: Whether it starts from timm's published weights.
        weights: The file or the folder of weights that it starts from, if there is one.
        statistics: The mean and the standard deviation of the images of those weights, if a
            `config.json` tells.
    """

    name: str
    args: Mapping[str, Any]
    pretrained: bool
    weights: Path | None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def find_model(
    name: str,
    args: Mapping[str, Any],
    *,
    pretrained: bool,
    weights: Path | None,
    kept: Path | None = None,
    key: str,
) -> ModelOrigin:
    """The model that a name stands for, which may be of a folder or of the Hub.

    Args:
        name: The name in the recipe.
        args: Arguments in the recipe, which go before those of a `config.json`.
        pretrained: Whether the weights that belong to the name are wanted.
        weights: The weights in the recipe: a file, a folder, or a run.
        kept: A file with the description, which is read if it is there.
        key: The section of the recipe, for messages.

    Raises:
        UsageError: If both kinds of weights are wanted.
        VitrellisError: If there is no such model.
    """
    if weights is not None and RunDirectory(weights).exists():
        weights = RunDirectory(weights).best_model
    if not is_described(name):
        return ModelOrigin(name, args, pretrained, weights)
    if pretrained and weights is not None:
        raise UsageError(f"{key}: give either pretrained or weights, not both")
    if kept is not None and kept.exists():
        described = parse(DescribedModel, read_sealed_json(kept), kept)
        folder = None
    else:
        with blaming("name"):
            folder = folder_of(name, with_weights=pretrained)
            described = read_description(folder / CONFIG, name)
    statistics = None
    if described.mean is not None and described.std is not None:
        statistics = described.mean, described.std
    return ModelOrigin(
        described.architecture,
        {**described.args, **args},
        False,
        folder if pretrained else weights,
        statistics,
    )


def with_model_found(recipe: Recipe, run: RunDirectory | None, channels: int) -> Recipe:
    """The recipe with its student in timm's terms.

    Args:
        recipe: The recipe.
        run: The run directory, which may be missing; None if what it holds is to be deleted.
        channels: The number of channels of the images.

    Raises:
        UsageError: For the reasons of `find_model`; or if images are to be normalised as for the
            model, and it does not say how.
        VitrellisError: For the reasons of `find_model`.
    """
    model, init = recipe.model, recipe.init
    is_resumed = run is not None and run.last_checkpoint.exists()
    with arguments_under(OF_STUDENT):
        found = find_model(
            model.name,
            model.args,
            pretrained=init.pretrained and not (is_resumed and is_described(model.name)),
            weights=init.weights,
            kept=None if run is None else run.description_file,
            key="init",
        )
    changes: dict[str, object] = {
        "model": model.model_copy(update={"name": found.name, "args": dict(found.args)}),
        "init": init.model_copy(update={"pretrained": found.pretrained, "weights": found.weights}),
    }
    if is_described(model.name) and recipe.input.normalization == "model":
        mean, std = statistics_of(found, model.name, channels, "input.normalization")
        statistics = ChannelStatistics(mean=mean, std=std)
        changes["input"] = recipe.input.model_copy(update={"normalization": statistics})
    return recipe.model_copy(update=changes)


def statistics_of(
    found: ModelOrigin, name: str, channels: int, key: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation per channel of the images of a model's weights.

    Args:
        found: The model.
        name: Its name in the recipe.
        channels: The number of channels of the images.
        key: The recipe key that asks for it, for messages.

    Raises:
        UsageError: If they are not known.
    """
    if is_described(name):
        if found.statistics is None:
            raise UsageError(f"{key}: {name} does not say how its images were normalised")
        mean, std = found.statistics
        return for_channels(mean, channels), for_channels(std, channels)
    return pretrained_normalization(found.name, channels, key)


def keep_description(recipe: Recipe, run: RunDirectory, fabric: Fabric) -> None:
    """Keeps what is said of the student's model where it comes from, so that a resumed run has it.

    Args:
        recipe: The recipe.
        run: The run directory, opened.
        fabric: Fabric, launched.
    """
    name = recipe.model.name
    if not is_described(name):
        return
    if fabric.is_global_zero and not run.description_file.exists():
        config = folder_of(name, with_weights=False) / CONFIG
        write_sealed_json(run.description_file, asdict(read_description(config, name)))
    fabric.barrier()
