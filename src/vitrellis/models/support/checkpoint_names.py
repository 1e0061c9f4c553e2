"""Checkpoints of other training codes: the file in a folder, the names, and the first layer."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from vitrellis.errors import VitrellisError

logger = logging.getLogger(__name__)

WEIGHTS_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
)
"""The names of files of weights in folders of Hugging Face's format, the safest first."""

LIGHTNING = "model."
"""The prefix of a model that is the attribute `model` of a LightningModule."""

_WRAPPED = re.compile(r"^(?:(?:module|_orig_mod)\.)+")


def weights_file(path: Path) -> Path:
    """The file of weights that a path names.

    Args:
        path: A file, or a folder in the format of Hugging Face, of timm, or of our exported models.

    Raises:
        VitrellisError: If there is no such file.
    """
    if path.is_dir():
        for name in WEIGHTS_IN_FOLDER:
            if (path / name).is_file():
                return path / name
        raise VitrellisError(
            f"{path}: no weights are in this folder. Expected is one of "
            f"{', '.join(WEIGHTS_IN_FOLDER[::2])}; a file of another name is given by its own path"
        )
    if not path.is_file():
        raise VitrellisError(f"{path}: no such file of weights")
    return path


def parts_of(index: Path) -> list[Path]:
    """The files that hold the weights of a model that was saved in parts.

    Args:
        index: Such as `model.safetensors.index.json`, which lists a file for each tensor.

    Raises:
        VitrellisError: If it cannot be read, or names files elsewhere.
    """
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({str(name) for name in listed})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise VitrellisError(f"{index}: damaged, or not an index of weights ({error})") from error
    for name in names:
        if Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise VitrellisError(f"{index}: names {name!r}, which is no file beside it")
    return [index.with_name(name) for name in names]


def without_wrappers(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Weights without the names that data-parallel training and `torch.compile` add.

    They are `module.` in front, and `_orig_mod.` in front or inside, in any order.

    Args:
        state: Weights by name.
    """
    names = {key: _WRAPPED.sub("", str(key)).replace("._orig_mod.", ".") for key in state}
    return {names[key]: value for key, value in state.items()}


def with_model_names(
    state: Mapping[str, Tensor], model: nn.Module, label: str
) -> dict[str, Tensor]:
    """The weights of one model out of a checkpoint in which its names have something in front.

    So it is in checkpoints of LightningModules (`model.blocks.0...`), of self-supervised training
    (`backbone.`, `base_encoder.`), and of our own training (`student.`). The prefix is found by the
    names that follow it.

    Args:
        state: Weights by name.
        model: The model that they are for.
        label: The origin of the weights, for messages.

    Returns:
        All of the state if most of the names are the model's own, or if no prefix makes them so.

    Raises:
        VitrellisError: If several models of the kind are in it, and none is under `model.`.
    """
    wanted = set(model.state_dict())
    found = Counter(prefix for name in state for prefix in _prefixes(name, wanted))
    most = max(found.values(), default=0)
    prefixes = sorted(prefix for prefix, count in found.items() if count == most)
    if 2 * most <= len(wanted) or "" in prefixes:
        return dict(state)
    if len(prefixes) > 1 and LIGHTNING not in prefixes:
        raise VitrellisError(
            f"{label}: holds several models of this kind, under {', '.join(prefixes)}. Save the "
            "state_dict of one of them alone"
        )
    prefix = LIGHTNING if LIGHTNING in prefixes else prefixes[0]
    others = sorted(name for name in state if not name.startswith(prefix))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        logger.warning(
            "note: %s: the weights are taken that are under %r; not taken: %s",
            label,
            prefix,
            ", ".join(others[:3]) + more,
        )
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def fit_first_layer(state: Mapping[str, Tensor], model: nn.Module, label: str) -> dict[str, Tensor]:
    """Weights whose first convolution takes as many image channels as the model's.

    For grey images its kernels are summed over the channels, and for more channels they are
    repeated and scaled, as timm does with its published weights. What is added or multiplied per
    channel before it, as in DHVT, is averaged, or repeated.

    Args:
        state: Weights by the model's names.
        model: The model that they are for.
        label: The origin of the weights, for messages.
    """
    fitted = dict(state)
    current = model.state_dict()
    layers: Any = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for layer in (layers,) if isinstance(layers, str) else tuple(layers):
        name = f"{layer}.weight"
        if name not in fitted or name not in current or fitted[name].ndim != 4:
            continue
        stored, needed = fitted[name].shape[1], current[name].shape[1]
        if stored == needed or (stored not in (1, 3) and needed != 1):
            continue
        weight = fitted[name]
        if stored == 1:
            fitted[name] = weight.repeat(1, needed, 1, 1) / needed
        else:
            fitted[name] = adapt_input_conv(needed, weight)
        for other, value in state.items():
            own = current.get(other)
            if own is not None and value.shape == (1, stored, 1, 1) != own.shape:
                mean = value.mean(dim=1, keepdim=True)
                repeated = value.repeat(1, -(-needed // stored), 1, 1)[:, :needed]
                fitted[other] = mean if needed == 1 else repeated
        logger.warning(
            "note: %s: is for images of %d channels; %s was adapted to %d (summed or repeated)",
            label,
            stored,
            name,
            needed,
        )
    return fitted


def _prefixes(name: str, wanted: set[str]) -> list[str]:
    """The beginnings of a name after which one of the wanted names follows."""
    parts = name.split(".")
    ends = ((number, ".".join(parts[number:])) for number in range(len(parts)))
    return ["".join(f"{part}." for part in parts[:number]) for number, end in ends if end in wanted]
