"""Any model by name: timm's, and those that timm lacks."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from torch import nn

from vitrellis.errors import UsageError, VitrellisError, blaming
from vitrellis.models.evit import EViT
from vitrellis.models.support.described_models import (
    CONFIG,
    folder_of,
    is_described,
    read_description,
)
from vitrellis.models.support.heads import add_distillation_head, head_modules
from vitrellis.models.support.interop import norm_eps_of, resampling_of, weights_for
from vitrellis.models.support.positions import (
    Grid,
    MadeFor,
    attend_on_grid,
    made_for,
    position_grids,
    position_tensors,
)
from vitrellis.models.support.prune_tokens import PRUNING, prune_tokens
from vitrellis.models.support.refusals import REFUSALS, can_be_built, refused
from vitrellis.models.support.variations import DEIT_CLASS_TOKEN_STD, NOT_TIMMS, vary
from vitrellis.models.support.weights import load_initial

_PACKAGE = "vitrellis.models."

# importing a model file registers its models with timm
for _file in pkgutil.iter_modules([str(Path(__file__).parents[1])]):
    importlib.import_module(_PACKAGE + _file.name)

IN_TIMM = (
    "convit_tiny",
    "deit_base_distilled_patch16_224",
    "deit_base_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "pit_ti_224",
    "pit_ti_distilled_224",
    "pvt_v2_b0",
    "resnet18",
    "resnet50",
)
"""Models of timm that the published systems train. The list is a choice; ours are found."""

_NOT_BUILT_WITH = ("distillation_head", "normalize_features", "stride_1x1", *NOT_TIMMS)
"""The arguments of `create_model` that change a model after it is built."""


def list_models() -> list[str]:
    """The names of the models that this package adds to timm's."""
    names = timm.list_models()
    return sorted(n for n in names if timm.model_entrypoint(n).__module__.startswith(_PACKAGE))


def create_model(
    name: str,
    *,
    num_classes: int,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: Path | str | None = None,
    weights_source: str | None = None,
    weights_img_size: int | Grid | None = None,
    weights_ema: bool = False,
    zero_head: bool = False,
    distillation_head: bool = False,
    norm_eps: float | None = None,
    class_token_std: float | None = None,
    normalize_features: bool = False,
    stride_1x1: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """A model by name, timm's or ours.

    Args:
        name: A name from `timm.list_models()` or `list_models()`; or `local-dir:FOLDER` or
            `hf_hub:OWNER/NAME`, a model that a `config.json` describes, as in timm.
        num_classes: K, the number of classes.
        img_size: Pixels, one number or `(H, W)`. It is not passed to CNNs, which take any size.
        in_chans: The number of image channels.
        pretrained: Start from timm's published weights, which are downloaded, or from those of the
            folder or the Hub.
        weights: Start from the weights in this file, or in this folder in the format of Hugging
            Face; a head of other classes is left new, position embeddings for images of another
            size are interpolated, and a first convolution for other channels is adapted.
        weights_source: The published implementation that named them, one of
            `vitrellis.models.support.interop.PUBLISHERS`; by default the names are timm's or ours.
        weights_img_size: The size of the images that they were made for, in pixels. By default it
            is read from `config.json` beside the file; without one, they were square.
        weights_ema: Take the moving average of the weights that the file holds beside them.
        zero_head: Set weights and biases of the classifier, or of both, to exactly zero, whatever
            they started from. All logits are then 0 before the first step, as in DeiT's code. Terms
            that standardize logits should not start so.
        distillation_head: Give it a second classifier, which learns from a teacher.
        norm_eps: The eps of every layer norm. By default, each has the model's own.
        class_token_std: The standard deviation of the initial class token. By default it is 0.02
            for DeiT, as published (timm has 1e-6), and the model's own for others.
        normalize_features: Let the classifier take features of length 1, as PaCo can.
        stride_1x1: Give the first convolution of each bottleneck the stride, not the second.
        **kwargs: Further arguments of the model, such as `drop_path_rate`. Any plain ViT of timm
            and DHVT takes `keep_rate`, `drop_layers`, `fuse_token` and `merge_tokens`, the
            arguments of `prune_tokens`.

    Raises:
        UsageError: If the name or an argument is unknown, or there are no published weights.
        VitrellisError: If weights cannot be had, or are another model's.
    """
    if pretrained and weights is not None:
        raise UsageError(f"{name}: give either pretrained or weights, not both")
    variations: dict[str, Any] = {
        "norm_eps": norm_eps,
        "class_token_std": class_token_std,
        "normalize_features": normalize_features,
        "stride_1x1": stride_1x1,
    }
    if is_described(name):
        return _create_described(
            name,
            {"distillation_head": distillation_head, **variations, **kwargs},
            pretrained=pretrained,
            weights=weights,
            weights_source=weights_source,
            num_classes=num_classes,
            img_size=img_size,
            in_chans=in_chans,
            weights_img_size=weights_img_size,
            weights_ema=weights_ema,
            zero_head=zero_head,
        )
    _check_name(name, pretrained)
    architecture = name.split(".")[0]
    if img_size is not None and takes_img_size(architecture):
        kwargs["img_size"] = img_size
    kwargs["in_chans"] = in_chans
    model = _build(name, pretrained=pretrained, num_classes=num_classes, **kwargs)
    if class_token_std is None and architecture.startswith("deit_") and not pretrained:
        variations["class_token_std"] = DEIT_CLASS_TOKEN_STD
    attend_on_grid(model)
    vary(model, name, **variations)
    if weights is not None:
        translation = _translation(model, name, weights_source, norm_eps)
        known = _grids_in(weights, weights_img_size, model, name, kwargs)
        load_initial(model, Path(weights).expanduser(), known, ema=weights_ema, **translation)
    if distillation_head:
        add_distillation_head(model, name)
    if zero_head:
        _zero_head(model, name)
    return model


@blaming("weights")
def _grids_in(
    weights: Path | str,
    size: int | Grid | None,
    model: nn.Module,
    name: str,
    arguments: Mapping[str, Any],
) -> Mapping[str, Grid]:
    """The grids of positions in weights, which were made for images of this size if it is given."""
    made = made_for(Path(weights).expanduser()) if size is None else MadeFor(to_2tuple(size))
    return known_grids(model, name, made, str(weights), arguments)


def _translation(
    model: nn.Module, name: str, source: str | None, norm_eps: float | None
) -> dict[str, Any]:
    """The arguments of `load_initial` for weights of a published implementation.

    Raises:
        UsageError: If they go with another eps of the norms than the model has.
    """
    if source is None:
        return {}
    published = norm_eps_of(source, model)
    if published is not None and norm_eps != published:
        raise UsageError(
            f"{name}: the weights of {source} go with an eps of {published:g} in all its norms. "
            f"Add model.args.norm_eps={published:g}"
        )
    translate = partial(weights_for, model, source=source)
    return {"translate": translate, "resampling": resampling_of(model, source)}


def _create_described(
    name: str,
    given: Mapping[str, Any],
    *,
    pretrained: bool,
    weights: Path | str | None,
    **common: Any,
) -> nn.Module:
    """A model of a folder or of the Hub; arguments that are given go before those of its file."""
    given = {key: value for key, value in given.items() if value not in (None, False)}
    with blaming("name"):
        folder = folder_of(name, with_weights=pretrained)
        described = read_description(folder / CONFIG, name)
    common["weights"] = folder if pretrained else weights
    return create_model(described.architecture, **common, **(dict(described.args) | given))


def takes_img_size(architecture: str) -> bool:
    """Whether the model is built for one size of images, and so takes `img_size`.

    timm says so of every architecture by `fixed_input_size`. The others, CNNs and some
    transformers, take images of any size.

    Args:
        architecture: A model name without the tag of its weights.
    """
    cfg = timm.get_pretrained_cfg(architecture)
    return cfg is not None and cfg.fixed_input_size


def prunes_itself(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Whether timm builds the model with the arguments of `PRUNING`, as it does an EViT.

    Args:
        architecture: A model name without the tag of its weights.
        arguments: Its arguments; timm's registry has no model that merges tokens.
    """
    is_evit = timm.model_entrypoint(architecture).__module__ == EViT.__module__
    return is_evit and not arguments.get("merge_tokens")


def known_grids(
    model: nn.Module, name: str, known: MadeFor, label: str, arguments: Mapping[str, Any]
) -> Mapping[str, Grid]:
    """The grids of a model's positions in weights that were made for images of another size.

    Args:
        model: The model that they are for.
        name: Its name.
        known: What is known of those images.
        label: The origin of the weights, for messages.
        arguments: The arguments of `create_model` that the model was built with, its `img_size`
            among them.

    Raises:
        VitrellisError: If its positions cannot be interpolated between images that are not square.
    """
    cfg = timm.get_pretrained_cfg(name.split(".")[0])
    old = known.img_size
    if old is None or cfg is None or not cfg.fixed_input_size:
        return known.grids
    new = to_2tuple(arguments.get("img_size") or cfg.input_size[1:])
    if old == new:
        return known.grids or position_grids(model)
    arguments = {key: value for key, value in arguments.items() if key not in _NOT_BUILT_WITH}
    if old[0] != old[1] or new[0] != new[1]:
        _refuse_unknown_positions(model, name, label, arguments, (old, new))
    if known.grids:
        return known.grids
    with torch.device("meta"):
        return position_grids(_build(name, num_classes=1, **(dict(arguments) | {"img_size": old})))


def _refuse_unknown_positions(
    model: nn.Module,
    name: str,
    label: str,
    arguments: Mapping[str, Any],
    sizes: tuple[Grid, Grid],
) -> None:
    """Refuses a model with tensors that depend on the size and are no positions that we know."""
    old, new = sizes
    shapes: dict[str, set[torch.Size]] = {}
    for size in (old, new, (2 * old[0], 2 * old[1])):  # equal numbers of tokens have equal shapes
        with torch.device("meta"):
            built = _build(name, num_classes=1, **(dict(arguments) | {"img_size": size}))
        for key, value in built.state_dict().items():
            shapes.setdefault(key, set()).add(value.shape)
    ours = position_tensors(model)
    others = [key for key, found in shapes.items() if len(found) > 1 and key not in ours]
    if others:
        raise VitrellisError(
            f"{label}: was made for images of {old[0]}x{old[1]} pixels, the model is for "
            f"{new[0]}x{new[1]}, and {others[0]} of {name} cannot be interpolated between sizes "
            f"that are not square. Use input.img_size=[{old[0]}, {old[1]}]"
        )


def _build(name: str, **kwargs: Any) -> nn.Module:
    """A model of timm's registry, with errors that say what the user can do."""
    architecture = name.split(".")[0]
    pruning = {}
    if not prunes_itself(architecture, kwargs):
        pruning = {key: kwargs.pop(key) for key in PRUNING if key in kwargs}
        if timm.model_entrypoint(architecture).__module__ == EViT.__module__:
            kwargs["drop_layers"] = ()  # until it merges tokens instead
    try:
        model = timm.create_model(name, **kwargs)
    except OSError as error:
        if not kwargs.get("pretrained"):
            raise
        raise VitrellisError(
            f"{name}: its published weights could not be downloaded; is there a network? "
            "A file of weights can be given in its place: init.weights"
        ) from error
    except REFUSALS as error:
        if architecture in list_models() and not can_be_built(architecture, {}):
            raise  # the fault is in our file, not in what the user wrote
        raise refused(architecture, kwargs, error) from error
    assert isinstance(model, nn.Module)
    if pruning:
        _prune(model, name, pruning)
    return model


def _prune(model: nn.Module, name: str, arguments: Mapping[str, Any]) -> None:
    try:
        prune_tokens(model, name, **arguments)
    except UsageError:
        raise
    except REFUSALS as error:
        keys = ", ".join(arguments)
        raise UsageError(f"{name}: {error} (see {keys} in model.args, or pruning)") from error


def _zero_head(model: nn.Module, name: str) -> None:
    for classifier in head_modules(model):
        # some classifiers are a norm and a layer; some CNNs classify by a 1x1 convolution
        layers = [m for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if not layers:
            raise UsageError(
                f"{name}: its classifier, {type(classifier).__name__}, cannot start at zero; "
                "leave out model.zero_head"
            )
        for layer in layers:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _check_name(name: str, pretrained: bool) -> None:
    """Refuses an unknown model, and one that has no weights if they are wanted."""
    with blaming("name"):
        if not isinstance(name, str):
            raise UsageError(f"{name!r} is a {type(name).__name__}; a model is given by its name")
        if not timm.is_model(name.split(".")[0]):
            raise _unknown_model(name)
    with blaming("pretrained"):
        if pretrained and not timm.is_model_pretrained(name):
            raise UsageError(f"{name}: no weights are published for it. Give a file: init.weights")


def _unknown_model(name: str) -> UsageError:
    ours = list_models()
    near = difflib.get_close_matches(name, [*ours, *timm.list_models()], n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return UsageError(
        f"unknown model {name!r}.{hint} `vitrellis models --all` lists them; ours are "
        f"{', '.join(ours)}"
    )
