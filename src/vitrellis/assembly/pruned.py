"""Fewer tokens for a finished run: the same weights in a model that leaves tokens out, as a run.

Nothing is trained. The new run has the images, classes and preprocessing of the old one, so that it
is evaluated, used and exported like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from vitrellis.assembly.imported import check_new
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, load_strictly
from vitrellis.models.support.prune_tokens import PRUNING, obstacle_to_pruning
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.models.tome import ToMe, merging_rates
from vitrellis.recipe import describe, recipe_from
from vitrellis.recipe.yaml import read_mapping
from vitrellis.runs import marker
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json, write_sealed_text
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Trained, load_exported, save_model
from vitrellis.runs.provenance import record_start

Method = Literal["evit", "tome"]


@dataclass(frozen=True)
class Reduction:
    """How a model gets by with fewer tokens.

    Attributes:
        method: "evit" leaves the tokens behind that the class token attends to least; "tome" merges
            similar tokens.
        keep_rate: The share of the tokens that reach a layer and go on: one number for `layers`, or
            one for each layer of the model.
        layers: The layers that shrink, 0-based.
        fuse: Whether "evit" adds what is left behind up to one more token.
    """

    method: Method
    keep_rate: float | tuple[float, ...]
    layers: tuple[int, ...]
    fuse: bool = True

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `create_model`."""
        rate = self.keep_rate if isinstance(self.keep_rate, float) else list(self.keep_rate)
        arguments = {"keep_rate": rate, "drop_layers": list(self.layers)}
        how = {"fuse_token": self.fuse} if self.method == "evit" else {"merge_tokens": True}
        return arguments | how

    @property
    def smallest_rate(self) -> float:
        """The share of tokens that shrinking layers keep at least."""
        return self.keep_rate if isinstance(self.keep_rate, float) else min(self.keep_rate)


def check_can_prune(trained: Trained, run: Path, method: Method) -> TokenReduction | nn.Module:
    """Makes sure that a model can get by with fewer tokens.

    Args:
        trained: The model.
        run: Its run, for the message.
        method: How.

    Returns:
        The model of the same architecture with all tokens, and without its weights.

    Raises:
        UsageError: If it cannot, with the reason.
    """
    plain = _built(trained, {})
    if isinstance(plain, TokenReduction):
        return plain  # an EViT, which can do both
    obstacle = obstacle_to_pruning(plain, merge_tokens=method == "tome")
    if obstacle is not None:
        raise UsageError(
            f"{run}: its model, {trained.architecture}, cannot be pruned by {method}, because "
            f"{obstacle}. Plain ViTs and DeiTs with a class token can be, and DHVTs by evit"
        )
    return plain


def default_layers(method: Method, depth: int) -> tuple[int, ...]:
    """The layers that shrink by default: three at equal distances, or all if tokens are merged.

    With twelve layers, the three are 3, 6 and 9, as published.
    """
    if method == "tome":
        return tuple(range(depth))
    return tuple(
        sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3)} & set(range(depth)))
    )


def merging(trained: Trained, num_merged: int, layers: Sequence[int]) -> Reduction:
    """The reduction that merges so many tokens in each of some layers, as ToMe's paper has it.

    Args:
        trained: A plain ViT.
        num_merged: The paper's r.
        layers: The layers that merge.
    """
    model: Any = trained.model
    rates = merging_rates(model.patch_embed.num_patches, num_merged, layers, len(model.blocks))
    return Reduction("tome", tuple(rates), tuple(layers))


def pruned(trained: Trained, reduction: Reduction) -> Trained:
    """The same weights in a model that leaves tokens out; it shares no memory with the other.

    Raises:
        UsageError: If it cannot be pruned so.
    """
    model = _built(trained, reduction.arguments)
    load_strictly(model, trained.model.state_dict(), trained.architecture)
    arguments = _unpruned_arguments(trained.model_args) | reduction.arguments
    return replace(trained, model=model.eval(), model_args=arguments)


def already_pruned(trained: Trained) -> str | None:
    """How a model leaves tokens out by now, in words; None if it does not."""
    model = trained.model
    if not isinstance(model, TokenReduction) or min(model.keep_rate) == 1:
        return None
    rates = ", ".join(
        f"{rate:g}" for rate in sorted({rate for rate in model.keep_rate if rate < 1})
    )
    verb = "merges" if isinstance(model, ToMe) else "leaves out"
    return f"it {verb} tokens already, with a keep rate of {rates}, which is replaced"


def write_pruned(
    run: RunDirectory, out: Path, reduction: Reduction, facts: Mapping[str, object]
) -> RunDirectory:
    """Writes a run with the weights of another one, which leaves tokens out.

    Args:
        run: The other run. Its best and its last model are taken.
        out: A new folder.
        reduction: How tokens are left out.
        facts: What is written about it into `imported.json`.

    Raises:
        UsageError: If the folder is not new.
    """
    new = RunDirectory(out.expanduser())
    check_new(new)
    best = pruned(load_exported(run.best_model), reduction)
    last = best
    if (run.last_model / "config.json").exists():
        last = pruned(load_exported(run.last_model), reduction)
    marker.write_marker(new)
    for trained, folder in ((best, new.best_model), (last, new.last_model)):
        save_model(
            trained.model,
            folder,
            architecture=trained.architecture,
            num_classes=len(trained.class_names),
            model_args=trained.model_args,
            class_names=trained.class_names,
            preprocessing=trained.preprocessing,
        )
    new.write_data(run.read_data())
    if run.provenance_file.exists():  # its folders say where the images are
        write_sealed_json(new.provenance_file, read_sealed_json(run.provenance_file))
    record_start(new.provenance_file)
    write_sealed_json(new.imported_file, {"run": str(run.path), **facts})
    write_sealed_text(new.recipe_file, _recipe_text(run, reduction))
    return new


def _recipe_text(run: RunDirectory, reduction: Reduction) -> str:
    """The recipe of the old run, of a model that leaves tokens out."""
    values = read_mapping(run.recipe_file, str(run.recipe_file))
    model = values.get("model")
    if not isinstance(model, dict):
        raise VitrellisError(f"{run.recipe_file}: has no section model")
    arguments = _unpruned_arguments(model.get("args") or {}) | reduction.arguments
    values["model"] = model | {"args": arguments}
    values["pruning"] = None  # its schedule is over
    values["description"] = f"{run.path.name}, pruned afterwards by {reduction.method}"
    return describe(recipe_from(values))


def _built(trained: Trained, pruning: Mapping[str, Any]) -> nn.Module:
    shown = trained.preprocessing
    return create_model(
        trained.architecture,
        num_classes=len(trained.class_names),
        img_size=shown.img_size,
        in_chans=shown.channels,
        **(_unpruned_arguments(trained.model_args) | dict(pruning)),
    )


def _unpruned_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in PRUNING}
