"""The keys that a recipe may have, explained: read from the sections and their docstrings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Explanation(NamedTuple):
    """A key or a section of a recipe.

    Attributes:
        key: The dotted key, such as `optimizer.sam`.
        default: The default as YAML, or what holds if the section is not given.
        meaning: The docstring.
        is_section: Whether there are keys below this one.
    """

    key: str
    default: str
    meaning: str
    is_section: bool = False


def explained_keys(section: type[BaseModel], prefix: str = "") -> Iterator[Explanation]:
    """Every section with its explanation, and every key with its default and its meaning."""
    for name, field in section.model_fields.items():
        inner = _inner_section(field)
        if inner is None:
            words = _words(field)
            choices = f" One of: {', '.join(words)}." if words else ""
            meaning = _one_line(field.description) + choices
            yield Explanation(f"{prefix}{name}", _default(field), meaning)
        else:
            meaning = _meaning_of_section(field, inner)
            is_on = field.get_default() is not None or field.is_required()
            says_otherwise = "if not given" in meaning
            default = "" if is_on or says_otherwise else "off unless given"
            yield Explanation(f"{prefix}{name}", default, meaning, is_section=True)
            yield from explained_keys(inner, f"{prefix}{name}.")


def _meaning_of_section(field: FieldInfo, section: type[BaseModel]) -> str:
    """The docstring of the section, after that of the field where it says something else."""
    of_field, of_section = _one_line(field.description), _one_line(section.__doc__)
    begins_alike = of_section.startswith(of_field.rstrip("."))
    return of_section if begins_alike else f"{of_field} {of_section}"


def _one_line(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _words(field: FieldInfo) -> list[str]:
    """The possible values of a key that is one of a few words, or one of them or nothing."""
    for choice in (field.annotation, *get_args(field.annotation)):
        if get_origin(choice) is Literal:
            return [str(word).lower() for word in get_args(choice)]
    return []


def _inner_section(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds a section, or a section or nothing."""
    choices = [c for c in get_args(field.annotation) or [field.annotation] if c is not NoneType]
    if len(choices) == 1 and isinstance(choices[0], type) and issubclass(choices[0], BaseModel):
        return choices[0]
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
