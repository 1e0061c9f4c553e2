"""Explains the mistakes in a recipe to the person who wrote it.

pydantic reports where and why it refused a value. Each mistake becomes one line with the file or
the command line, the key, the value, what is wrong, and what would be right.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vitrellis.errors import UsageError

RENAMED_KEYS = {
    "data.long_tail.factor": "data.long_tail.imbalance_factor",
    "input.resident": "input.cache",
}
"""Renamed keys: the old key, and the key that took its place."""

OTHER_WORDS = {
    "amp": "training.precision",
    "b": "training.batch_size",
    "data_path": "data.root",
    "device": "machine.accelerator",
    "drop_path": "model.args.drop_path_rate",
    "epoch": "training.epochs",
    "epochs": "training.epochs",
    "gpus": "machine.devices",
    "input_size": "input.img_size",
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "max_epochs": "training.epochs",
    "num_workers": "machine.workers",
    "opt": "optimizer.name",
    "patience": "training.early_stopping_patience",
    "smoothing": "objective.cross_entropy.label_smoothing",
    "warmup_epochs": "schedule.warmup_epochs",
    "wd": "optimizer.weight_decay",
    "weight_decay": "optimizer.weight_decay",
}
"""Words of timm, DeiT, Lightning and others, and the keys that mean the same."""

_HINTS = 3
"""Greatest number of keys that are suggested."""

Origins = Mapping[tuple[str, ...], str]
"""The place where each key was written (a file or the command line), by the key's path."""


def explain(
    error: ValidationError,
    *,
    model: type[BaseModel],
    values: Mapping[str, Any],
    origins: Origins,
    main: str,
) -> UsageError:
    """One error with a line for every mistake.

    Args:
        error: The mistakes as pydantic reports them.
        model: The class that `values` are validated by.
        values: The user's values, merged.
        origins: The place where each key was written.
        main: The file that is named for a missing key.
    """
    mistakes = error.errors(include_url=False)
    lines = dict.fromkeys(
        _line(details, model, values, origins, main)
        for details in mistakes
        if not _follows(details, mistakes)
    )
    if len(lines) == 1:
        return UsageError(next(iter(lines)))
    return UsageError(f"{len(lines)} mistakes in the recipe:\n  " + "\n  ".join(lines))


def _line(
    details: ErrorDetails,
    model: type[BaseModel],
    values: Mapping[str, Any],
    origins: Origins,
    main: str,
) -> str:
    path = _written_path(details["loc"], values, is_missing=details["type"] == "missing")
    origin = next(
        (origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), main
    )
    parts = [origin, ".".join(path), _reason(details, model)]
    return ": ".join(part for part in parts if part)


def _follows(details: ErrorDetails, mistakes: list[ErrorDetails]) -> bool:
    """Whether a list only seems too short because some of its items were refused."""
    loc = details["loc"]
    return details["type"] == "too_short" and any(
        other["loc"][: len(loc)] == loc and len(other["loc"]) > len(loc) for other in mistakes
    )


def _written_path(
    loc: tuple[int | str, ...], values: Mapping[str, Any], *, is_missing: bool
) -> tuple[str, ...]:
    """The key as the user would write it: pydantic's path without the names of union members."""
    path = []
    node: Any = values
    for position, part in enumerate(loc):
        is_key = isinstance(node, Mapping) and part in node
        if is_key or (isinstance(node, list | tuple) and part in range(len(node))):
            node = node[part]
            path.append(str(part))
        elif is_missing and position == len(loc) - 1 and isinstance(part, str):
            path.append(part)
    return tuple(path)


def _reason(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, loc, context = details["type"], details["loc"], details.get("ctx", {})
    value = _as_text(details["input"])
    if kind == "extra_forbidden" and (new_key := RENAMED_KEYS.get(".".join(map(str, loc)))):
        return f"this key is now called {new_key}"
    if kind == "extra_forbidden":
        return _unknown_key(loc, _section(model, loc[:-1]).model_fields, model)
    if kind == "missing" and isinstance(loc[-1], int):
        return "needs one more value"
    if kind == "missing":
        return f"missing. {_documentation(model, loc)}"
    if kind in ("model_type", "model_attributes_type"):
        fields = _section(model, loc).model_fields
        if loc[-1] in fields and loc[-2:-1] == ("teachers",):
            return (
                f"teachers holds a section for each name, and {str(loc[-1])!r} is not one. A "
                f"single teacher is given by teacher, without s: teacher.{loc[-1]}"
            )
        return f"{value} is not a mapping of keys. Known keys: {', '.join(fields)}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{value} is {words} {context[bound]:g}"
    if kind == "literal_error":
        expected = context["expected"].replace("True or False", "true or false")
        return f"{value} is not possible here; it must be {expected}{_alternative(loc)}"
    if kind == "string_pattern_mismatch":
        return f"{value} is not of the right form. {_documentation(model, loc)}"
    if kind == "value_error":
        return str(context["error"])
    if kind in _WORDS:
        return f"{value} {_WORDS[kind]}"
    return details["msg"]


_BOUNDS = {
    "greater_than_equal": ("too small; it must be at least", "ge"),
    "greater_than": ("too small; it must be more than", "gt"),
    "less_than_equal": ("too large; it must be at most", "le"),
    "less_than": ("too large; it must be less than", "lt"),
}

_WORDS = {
    "int_type": "is not a number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "int_parsing_size": "is too large",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "string_type": "is not text",
    "path_type": "is not a path",
    "tuple_type": "is not a list",
    "list_type": "is not a list",
    "dict_type": "is not a mapping of names to values",
    "too_short": "has too few values",
    "too_long": "has too many values",
}


def _alternative(loc: tuple[int | str, ...]) -> str:
    """The alternative to one of a few words, as the tag of the union names it."""
    last = str(loc[-1])
    return f", {last[1:-1]}" if last.startswith("(or ") else ""


def _unknown_key(loc: tuple[int | str, ...], known: Iterable[str], model: type[BaseModel]) -> str:
    key, names = str(loc[-1]), list(known)
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    nearest = nearest or [_of_teacher(loc) + meant for meant in keys_meant_by(key, model)]
    nearest = nearest or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    return f"unknown key.{hint} Known: {', '.join(names)}"


def _of_teacher(loc: tuple[int | str, ...]) -> str:
    """What a key of a recipe begins with where it is written in the section of a teacher."""
    if loc[:1] == ("teacher",) and len(loc) == 2:
        return "teacher.overrides."
    if loc[:1] == ("teachers",) and len(loc) == 3:
        return f"teachers.{loc[1]}.overrides."
    return ""


def keys_meant_by(name: str, model: type[BaseModel]) -> list[str]:
    """The keys that a name may stand for: by the words of other training codes, or in any section.

    Args:
        name: What the user wrote, with underscores.
        model: The class of recipes.
    """
    return [OTHER_WORDS[name]] if name in OTHER_WORDS else _elsewhere(name, model)


def words_for_keys(model: type[BaseModel]) -> list[str]:
    """The names for which `keys_meant_by` may know keys.

    Args:
        model: The class of recipes.
    """
    names = {path.rpartition(".")[2] for path in _paths(model)}
    return [word for word in sorted({*names, *OTHER_WORDS}) if keys_meant_by(word, model)]


def _elsewhere(key: str, model: type[BaseModel]) -> list[str]:
    """The keys of this name in other sections, if they are few; only the outermost ones."""
    found = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    outermost = min((path.count(".") for path in found), default=0)
    found = [path for path in found if path.count(".") == outermost]
    return found if len(found) <= _HINTS else []


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all sections."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if not _is_mapping(field):
            for section in _sections_in(field):
                yield from _paths(section, f"{prefix}{name}.")


def _as_text(value: object) -> str:
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, bool | dict | list):
        text = json.dumps(value, default=str)
    else:
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _documentation(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """The docstring of the field at `loc`."""
    fields = [part for part in loc if isinstance(part, str) and not part.startswith("(")]
    end = len(loc) - 1 - loc[::-1].index(fields[-1])
    field = _section(model, loc[:end]).model_fields[fields[-1]]
    return " ".join((field.description or "").split())


def _section(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The class of the section at `loc`, in which `(Name)` selects one of several classes."""
    choices = [model]
    is_name = False  # whether the next part is a name that the user chose, such as a teacher's
    for part in loc:
        if is_name:
            is_name = False
        elif part in choices[0].model_fields and len(choices) == 1:
            field = choices[0].model_fields[str(part)]
            choices = _sections_in(field)
            is_name = _is_mapping(field)
        else:
            choices = [choice for choice in choices if f"({choice.__name__})" == part] or choices
    return choices[0]


def _is_mapping(field: FieldInfo) -> bool:
    """Whether the field holds a section for each of several names."""
    origins = {get_origin(annotation) for annotation in _annotations(field)}
    return bool(origins & {dict, Mapping})


def _sections_in(field: FieldInfo) -> list[type[BaseModel]]:
    return [
        annotation
        for annotation in _annotations(field)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel)
    ]


def _annotations(field: FieldInfo) -> Iterator[object]:
    """The annotation of a field, and all that it is made of."""
    pending: list[object] = [field.annotation]
    while pending:
        annotation = pending.pop()
        yield annotation
        pending.extend(get_args(annotation))
