"""Keys of a recipe that replace each other: one that is given takes the place of a base's other.

A recipe file or the command line that says `teacher.run` means a finished teacher, not one beside
the base's `teacher.recipe`. Both in the same file, or both on the command line, stay a mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

_V = TypeVar("_V")

_OF_A_RECIPE, _OF_A_MODEL = ("overrides",), ("pretrained", "weights", "args")

_OF_A_FILE = ("source", "weights_img_size", "weights_ema")

_IN_A_TEACHER: Mapping[str, Sequence[str]] = {
    "recipe": ("run", "model", "given", *_OF_A_MODEL, "img_size"),
    "run": ("recipe", "model", "given", *_OF_A_RECIPE, *_OF_A_MODEL, "img_size"),
    "model": ("recipe", "run", "given", *_OF_A_RECIPE),
    "given": ("recipe", "run", "model", *_OF_A_RECIPE, *_OF_A_MODEL),
    "pretrained": ("weights",),
    "weights": ("pretrained",),
}

_IN_A_VIEW: Mapping[str, Sequence[str]] = {
    "rand_augment": ("auto_augment",),
    "auto_augment": ("rand_augment",),
}

_ADAPTIVE, _RAMP = ("adaptive", "window", "threshold", "min_epoch", "relative"), ("to", "epochs")
_IN_A_WEIGHT: Mapping[str, Sequence[str]] = {
    "adaptive": ("off_after", *_RAMP, "shape"),
    "off_after": (*_ADAPTIVE, *_RAMP, "shape"),
    "to": ("off_after", *_ADAPTIVE),
}

_IN_SECTIONS: Mapping[tuple[str, ...], Mapping[str, Sequence[str]]] = {
    ("teacher",): _IN_A_TEACHER,
    ("teachers", "*"): _IN_A_TEACHER,
    ("init",): {
        "pretrained": ("weights", *_OF_A_FILE),
        "weights": ("pretrained", *_OF_A_FILE),
    },
    ("augmentation",): _IN_A_VIEW,
    ("augmentation", "second_view"): _IN_A_VIEW,
    ("objective", "*", "weight"): _IN_A_WEIGHT,
    ("deferred",): {"after_epochs": ("share",), "share": ("after_epochs",)},
}
"""By section, and in it by key: the keys of a base that it replaces. `*` is any name."""

_LOSSES = {"ldam": ("margin", "scale"), "logit_adjustment": ("tau",), "focal": ("gamma",)}
_SETTINGS_OF_CHOICES: Mapping[tuple[str, ...], Mapping[str, Mapping[str, Sequence[str]]]] = {
    ("schedule",): {"name": {"step": ("milestones", "factors")}},
    ("objective", "cross_entropy"): {"loss": _LOSSES},
}
"""By section: a key that is one of several words, and the keys that belong to each word."""


def replaced_keys(
    base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The keys of `base` that cannot stay beside those that `over` gives.

    Args:
        base: The values so far, nested.
        over: The values that are merged over them. A key that it gives itself is not replaced.
        path: The section that both are the content of.
    """
    for key, others in _rules(_IN_SECTIONS, path).items():
        if over.get(key) is not None and over[key] is not False:
            yield from ((*path, other) for other in others if other in base and other not in over)
    for key, settings in _rules(_SETTINGS_OF_CHOICES, path).items():
        of_others = [
            setting for word, keys in settings.items() if word != over.get(key) for setting in keys
        ]
        if over.get(key) is not None:
            yield from ((*path, own) for own in of_others if own in base and own not in over)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            yield from replaced_keys(below, value, (*path, key))


def _rules(
    by_section: Mapping[tuple[str, ...], Mapping[str, _V]], path: tuple[str, ...]
) -> Mapping[str, _V]:
    """The rules of the section at `path`."""
    for pattern, rules in by_section.items():
        alike = len(pattern) == len(path)
        if alike and all(p in ("*", part) for p, part in zip(pattern, path, strict=True)):
            return rules
    return {}


def without(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """`values` without the key at `path`."""
    first, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    return {**values, first: without(values[first], tuple(rest))}
