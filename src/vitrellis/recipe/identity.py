"""The identity of a recipe: the settings that determine a result, digests and differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vitrellis.recipe.yaml import dump

if TYPE_CHECKING:
    from vitrellis.recipe.recipe import Recipe


def describe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every key with its value. Loading it gives an equal recipe."""
    return dump(recipe.model_dump(mode="json"))


def identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that determine the result: without name, machine and checkpoint interval."""
    return recipe.model_dump(
        mode="json",
        exclude={
            "name": True,
            "description": True,
            "machine": True,
            "training": {"checkpoint_minutes"},
        },
    )


def differences(before: Recipe, after: Recipe) -> list[str]:
    """The settings in which the identities of two recipes differ.

    Returns:
        Lines such as `optimizer.lr: 0.001 → 0.002`; none if both define the same run.
    """
    old, new = dict(_leaves(identity(before))), dict(_leaves(identity(after)))
    return [
        f"{key}: {_as_text(old, key)} → {_as_text(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if _as_text(old, key) != _as_text(new, key)
    ]


def digest(mapping: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that are equal for equal mappings, whatever their order.

    Args:
        mapping: Plain values, as `identity` returns them.
    """
    text = json.dumps(mapping, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_text(leaves: Mapping[str, Any], key: str) -> str:
    value = leaves.get(key)
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
