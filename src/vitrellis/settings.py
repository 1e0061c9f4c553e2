"""The base of all recipe sections, which is strict, and the types of their keys with ranges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticKnownError


class Section(BaseModel):
    """A part of a recipe: typed, frozen, and without unknown keys.

    A key set to null counts as not given, so that a recipe can remove the value of its base.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in cls.model_fields}


def _refuse_bool(value: object) -> object:
    """Refuses true and false, which Python would take for the numbers 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


def _path(value: object) -> object:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return Path(str(value)).expanduser()
    return value


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}
    return value


def _size_tag(value: object) -> str:
    return "(pair)" if isinstance(value, list | tuple) else "(number)"


def _word_tag(value: object) -> str:
    is_word = isinstance(value, str) and not value.isdecimal()
    return "(or a whole number)" if is_word else "(number)"


_Int = Annotated[int, BeforeValidator(_refuse_bool)]
_Float = Annotated[float, BeforeValidator(_refuse_bool)]

Count = Annotated[_Int, Field(ge=1)]
"""A whole number, at least one."""

Index = Annotated[_Int, Field(ge=0)]
"""A whole number, zero included."""

Number = _Float
"""Any finite number."""

Positive = Annotated[_Float, Field(gt=0)]
"""A number above zero."""

NonNegative = Annotated[_Float, Field(ge=0)]
"""A number, zero included."""

Fraction = Annotated[_Float, Field(ge=0, le=1)]
"""A number between zero and one, both included."""

PositiveFraction = Annotated[_Float, Field(gt=0, le=1)]
"""A number above zero and at most one."""

ProperFraction = Annotated[_Float, Field(ge=0, lt=1)]
"""A number between zero and one, one excluded."""

Size = Annotated[
    Annotated[Count, Tag("(number)")] | Annotated[tuple[Count, Count], Tag("(pair)")],
    Discriminator(_size_tag),
]
"""Pixels: one number for a square, or `[height, width]`."""

AutoOrIndex = Annotated[
    Annotated[Literal["auto"], Tag("(or a whole number)")] | Annotated[Index, Tag("(number)")],
    Discriminator(_word_tag),
]
"""A whole number, or `auto`."""

File = Annotated[Path, BeforeValidator(_path)]
"""A path; `~` is the home folder, and a relative one starts in the current folder."""

Arguments = Annotated[dict[str, Any], BeforeValidator(_without_nulls)]
"""Keyword arguments, passed on as they are."""
