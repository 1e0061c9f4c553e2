"""Which arguments an architecture may be given by a recipe, or by the `config.json` of others."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import timm

from vitrellis.errors import UsageError

_OWN_KEYS = {
    "num_classes": "the classes of the images decide it",
    "img_size": "it has a key of its own, img_size",
    "in_chans": "the channels of the images decide it (input.channels)",
    "pretrained": "it has a key of its own, pretrained",
    "weights": "it has a key of its own, weights",
    "weights_img_size": "it has a key of its own, weights_img_size",
    "weights_ema": "it has a key of its own, weights_ema",
    "zero_head": "it has a key of its own, zero_head",
}

_TIMMS_OWN = {
    *inspect.signature(timm.create_model).parameters,
    *("features_only", "out_indices", "feature_cfg"),
    *("pretrained_strict", "pretrained_filter_fn", "pretrained_custom_load", "url"),
} - {"kwargs", "pretrained"}
"""Not the model's: some make timm read files, and unpickle them before version 1.0.26."""


def check_arguments(names: Iterable[str], where: str) -> None:
    """Refuses arguments that are not the architecture's.

    Args:
        names: The names of the arguments.
        where: The recipe's key, or the file, that gives them.

    Raises:
        UsageError: Naming the argument, and what sets it if anything does.
    """
    for name in names:
        if name in _OWN_KEYS:
            raise UsageError(f"{where}: {name} is not given here: {_OWN_KEYS[name]}")
        if name in _TIMMS_OWN:
            raise UsageError(
                f"{where}: {name} is an argument of timm.create_model and not of a model, and is "
                "not taken from a recipe or a file"
            )
