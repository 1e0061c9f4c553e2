"""Looks settings up by the keys that published ones are listed under."""

from __future__ import annotations

from typing import Any

from vitrellis.recipe import Recipe


def values(recipe: Recipe, keys: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe, by dotted keys such as `optimizer.lr`."""
    by_key: dict[str, Any] = {}
    for key in keys:
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        by_key[key] = value
    return by_key
