"""Reads and writes the YAML of recipes: the plain values of YAML 1.2, and no key twice.

How we differ from PyYAML's safe loader: `1e-3` is a number; dates, `12:30`, `yes`, `no`, `on`
and `off` are text (which a true-or-false key understands); a repeated key is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vitrellis.errors import UsageError


def read_mapping(path: Path, label: str) -> dict[str, Any]:
    """The content of a YAML file, which must be a mapping.

    Args:
        path: An existing file.
        label: The user's name for the file, for messages.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or is not a mapping of names.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{label}: not a text file, and so not a recipe") from error
    except OSError as error:
        raise UsageError(f"{label}: cannot be read ({error.strerror})") from error
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{label}: not valid YAML: {_problem(error)}") from error
    if values is None:
        raise UsageError(f"{label}: empty; a recipe has at least model.name and training.epochs")
    if not isinstance(values, dict):
        raise UsageError(
            f"{label}: holds {_kind(values)}; a recipe is a mapping, with lines such as 'seed: 1'"
        )
    return values


def parse_value(text: str, label: str) -> Any:
    """The value of a YAML text.

    Raises:
        UsageError: If the text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{label}: not valid YAML: {_problem(error)}") from error


def dump(values: Mapping[str, Any]) -> str:
    """The values as YAML text, with one key per line and each list on one line."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def override_texts(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested values as `key=value` texts with dotted keys, which `parse_overrides` reads back."""
    texts = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            texts += override_texts(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={in_one_line(value)}")
    return texts


def in_one_line(value: object) -> str:
    """A value as YAML in one line; a text without quotes where it is read as that text."""
    if isinstance(value, str) and value and yaml.load(value, Loader=_Loader) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


class _Loader(yaml.SafeLoader):
    """A safe loader that is strict about keys and reads the plain values of YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is not a name", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would otherwise read as another type."""

    def represent_flat(self, values: list[Any] | tuple[Any, ...]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(list, _Dumper.represent_flat)
_Dumper.add_representer(tuple, _Dumper.represent_flat)

_PLAIN_VALUES = [
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
]

for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _PLAIN_VALUES:
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _kind(values: object) -> str:
    if isinstance(values, list):
        return "a list"
    return "only text" if isinstance(values, str) else f"only {values!r}"
