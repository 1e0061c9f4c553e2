"""Weights from files: read without executing anything, and fitted to a model or refused."""

from __future__ import annotations

import argparse
import codecs
import hashlib
import logging
import pathlib
import pickle
import re
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from vitrellis.errors import VitrellisError, blaming
from vitrellis.models.support.checkpoint_names import (
    fit_first_layer,
    parts_of,
    weights_file,
    with_model_names,
    without_wrappers,
)
from vitrellis.models.support.finite import check_finite_weights
from vitrellis.models.support.positions import (
    TIMMS,
    Grid,
    Resampling,
    made_for,
    position_tensors,
    resample_positions,
)

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state", "model", "guided")
"""Keys under which training codes keep the weights in a checkpoint; the last is our own."""

EMA_WRAPPERS = ("model_ema", "ema_state", "state_dict_ema", "ema")
"""Keys under which they keep a moving average of them; the last is our own."""

CHECKSUM = "vitrellis_sha256"
"""The key in the metadata of a safetensors file under which we write the digest of its tensors."""

SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64")),
    (codecs.encode, "_codecs.encode"),
    *(
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
]
"""The classes that `torch.load(weights_only=True)` may create. Published checkpoints hold them
beside tensors, as settings and a best accuracy. They can only hold values."""

DAMAGED = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
)
"""The errors that the readers raise on files that were cut short or overwritten (tried out)."""


def read_state_dict(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a torch checkpoint, by name.

    Args:
        path: `.safetensors`, or anything `torch.load` reads with `weights_only=True`, settings of a
            command line beside the weights included; or a folder in the format of Hugging Face, in
            one file or in parts.
        ema: The moving average that a training code kept, not the weights themselves. A warning is
            logged if it is there and not asked for.

    Raises:
        VitrellisError: If the file is missing, damaged, or would have to execute code.
    """
    path = weights_file(path)
    if path.name.endswith(".index.json"):
        parts = [read_state_dict(part) for part in parts_of(path)]
        return {name: value for part in parts for name, value in part.items()}
    try:
        if path.suffix == ".safetensors":
            return _checked(load_file(path), path)
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except VitrellisError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise VitrellisError(
                f"{path}: not a file of weights, damaged, or of a kind that is not read because it "
                "could execute code. It should be a .safetensors file, or what torch.save wrote of "
                "a model's state_dict"
            ) from error
        raise VitrellisError(
            f"{path}: holds more than tensors and plain containers ({named[1]}, which is not known "
            "to be harmless): that would execute code from the file, so it was not read. Save the "
            "model's state_dict alone, best as safetensors"
        ) from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise VitrellisError(f"{path}: damaged, or not a file of weights ({reason})") from error
    averages = [key for key in EMA_WRAPPERS if isinstance(content, Mapping) and key in content]
    if not ema:
        state = unwrap(content, str(path))
        if averages:
            logger.warning(
                "note: %s: also holds a moving average of the weights (%s), which is not taken; "
                "init.weights_ema=true and `vitrellis import --ema` take it",
                path,
                averages[0],
            )
        return state
    if not averages:
        raise VitrellisError(f"{path}: holds no moving average ({', '.join(EMA_WRAPPERS)})")
    return unwrap(content[averages[0]], str(path))


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """A hexadecimal digest of names, types, shapes and values.

    Args:
        state: Tensors by name.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_checksum(path: Path) -> bool:
    """Whether a safetensors file says what its tensors should be.

    Args:
        path: A file that `read_state_dict` has read.
    """
    with safe_open(path, "pt") as file:
        return CHECKSUM in (file.metadata() or {})


def _checked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if they are those that were written.

    Raises:
        VitrellisError: If the file has a checksum of other tensors.
    """
    with safe_open(path, "pt") as file:
        stored = (file.metadata() or {}).get(CHECKSUM)
    if stored is not None and stored != tensors_digest(state):
        raise VitrellisError(
            f"{path}: damaged: its tensors are not those that were written (another checksum). "
            "Restore it from a copy, or train it again"
        )
    return state


def unwrap(content: object, label: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the wrappers of parallel and compiled training.

    Args:
        content: A state dict, or a mapping that holds one under one of `WRAPPERS`.
        label: The origin of the content, for messages.

    Raises:
        VitrellisError: If there is none.
    """
    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping):
        raise VitrellisError(f"{label}: holds a {type(content).__name__}, not weights by name")
    state = without_wrappers(content)
    # what modules keep beside tensors (`Module.get_extra_state`) is of training, not of a model
    state = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) or not name.endswith("_extra_state")
    }
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        what = f"{others[0]!r} is not a tensor" if others else "it is empty"
        raise VitrellisError(f"{label}: not a state dict: {what}")
    return state


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], label: str) -> None:
    """Loads weights that must fit in every name and shape.

    Args:
        model: Changed in place, or not at all.
        state: By the model's own names.
        label: The origin of the weights, for messages.

    Raises:
        VitrellisError: Naming what is missing, unknown, of another shape, or not finite.
    """
    current = model.state_dict()
    problems = []
    problems += _listed("missing", [name for name in current if name not in state])
    problems += _listed("unknown", [name for name in state if name not in current])
    problems += _listed(
        "of another shape",
        [
            f"{name} {tuple(value.shape)} instead of {tuple(current[name].shape)}"
            for name, value in state.items()
            if name in current and value.shape != current[name].shape
        ],
    )
    if problems:
        raise VitrellisError(f"{label}: not the weights of this model: {'; '.join(problems)}")
    check_finite_weights(state, label)
    model.load_state_dict(dict(state))


@blaming("weights")
def load_initial(
    model: nn.Module,
    path: Path,
    grids: Mapping[str, Grid] | None = None,
    *,
    ema: bool = False,
    translate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
    resampling: Resampling = TIMMS,
) -> None:
    """Weights to start from: all must fit, but for a head of other classes, which stays new.

    Position embeddings that were made for images of another size are interpolated, and a first
    convolution for another number of channels is adapted. Names may have something in front, as in
    checkpoints of Lightning.

    Args:
        model: A timm model or one of ours.
        path: A file or a folder that `read_state_dict` can read.
        grids: The grids of its position embeddings, by name. Those that are not given must be
            square.
        ema: Take the moving average that the file holds, not the weights themselves.
        translate: Brings the names of the file to those of the model.
        resampling: How to interpolate position embeddings.

    Raises:
        VitrellisError: If the file cannot be read, or is of another model.
    """
    renamed = translate(read_state_dict(path, ema=ema))
    named = with_model_names(renamed, model, str(path))
    try:
        new_names = _load_but_head(model, named, grids or {}, str(path), resampling)
    except VitrellisError as error:
        stated, own = made_for(path).architecture, _architecture(model)
        if stated is None or own is None or stated == own:
            raise
        raise VitrellisError(
            f"{path}: holds a {stated}, and the model is a {own} ({error})"
        ) from error
    if new_names:
        logger.warning(
            "%s: has no head for these classes; starts anew: %s", path, ", ".join(new_names)
        )


def _load_but_head(
    model: nn.Module,
    named: Mapping[str, Tensor],
    grids: Mapping[str, Grid],
    label: str,
    resampling: Resampling,
) -> list[str]:
    """Loads weights by the model's names, and returns those of the head that is left new."""
    fitted = resample_positions(named, model, grids, label, resampling)
    placed = {name: fitted[name] for name in position_tensors(model) if name in fitted}
    state = {name: value for name, value in fitted.items() if name not in placed}
    # timm's models come with a function that knows old names, and takes all grids for squares
    rename: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        try:
            state = rename(state, model)
        except KeyError as error:
            raise VitrellisError(
                f"{label}: not the weights of this model: missing: {error}"
            ) from error
    state = fit_first_layer(state | placed, model, label)
    current = model.state_dict()
    if not state.keys() & current.keys():
        raise VitrellisError(
            f"{label}: not the weights of this model: none of its tensors is named as one of the "
            f"model. It holds {', '.join(list(named)[:3])}; the model has "
            f"{', '.join(list(current)[:3])}. If published code wrote it, init.source translates "
            "the names"
        )
    classifier: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    new_names = []
    for name in current:
        is_head = any(name.startswith(f"{head}.") for head in heads)
        if is_head and (name not in state or state[name].shape != current[name].shape):
            new_names.append(name)
            state[name] = current[name]
    load_strictly(model, state, label)
    return new_names


def _architecture(model: nn.Module) -> str | None:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    name = cfg.get("architecture")
    return name if isinstance(name, str) else None


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what}: {', '.join(names[:3])}{more}"]
