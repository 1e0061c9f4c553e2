"""Reads and writes the YAML of recipes: the plain values of YAML 1.2, and no key twice.

How we differ from PyYAML's safe loader: `1e-3` is a number; dates, `12:30`, `yes`, `no`, `on`
and `off` are text (which a true-or-false key understands); a repeated key is an error. Tags of
other types, aliases that contain themselves or expand without end, and numbers of many digits are
errors, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vitrellis.errors import UsageError

_LARGEST_FILE = 1_000_000
"""Bytes; PyYAML takes seconds for as many."""

_MOST_VALUES = 100_000
"""Values in a document, with each alias expanded; a recipe has some hundred."""

_DEEPEST = 50
_MOST_DIGITS = 400  # float64 ends at 1.8e308


def read_mapping(path: Path, label: str) -> dict[str, Any]:
    """The content of a YAML file, which must be a mapping.

    Args:
        path: An existing file.
        label: The user's name for the file, for messages.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or is not a mapping of names.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{label}: not a text file, and so not a recipe") from error
    except OSError as error:
        raise UsageError(f"{label}: cannot be read ({error.strerror})") from error
    if len(content) > _LARGEST_FILE:
        raise UsageError(
            f"{label}: larger than {_LARGEST_FILE:,} bytes, and so not a recipe, which has a few "
            "thousand"
        )
    values = parse_value(text, label)
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
    except RecursionError as error:
        raise UsageError(f"{label}: not valid YAML: it is nested too deeply") from error


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

    def get_single_node(self) -> yaml.Node | None:
        """The document, if constructing its values is quick and can only fail as YAML does."""
        node = super().get_single_node()
        if node is not None:
            _check_size(node, {}, 0)
        return node

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


_PLAIN_TAGS = {f"tag:yaml.org,2002:{tag}": pattern for tag, pattern, _ in _PLAIN_VALUES}
_TAGS = {*_PLAIN_TAGS, *(f"tag:yaml.org,2002:{tag}" for tag in ("str", "seq", "map"))}


def _check_size(node: yaml.Node, sizes: dict[int, int | None], depth: int) -> int:
    """The number of values that a node expands to.

    Args:
        node: The node.
        sizes: The numbers that are known, by the nodes' identities; None for a node that is being
            counted.
        depth: The number of nodes around it.

    Raises:
        yaml.MarkedYAMLError: If it is too large or too deep, contains itself, or has a tag of
            another type, or one that does not fit its text.
    """
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _wrong("an alias stands for a value that contains it", node)
        return known
    if node.tag not in _TAGS:
        raise _wrong(f"the tag {node.tag} is not read; only plain values are", node)
    if depth > _DEEPEST:
        raise _wrong(f"nested more than {_DEEPEST} deep", node)
    sizes[id(node)] = None
    size = 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_check_size(part, sizes, depth + 1) for pair in node.value for part in pair)
    else:
        size += sum(_check_size(part, sizes, depth + 1) for part in node.value)
    if size > _MOST_VALUES:
        raise _wrong(f"expands to more than {_MOST_VALUES:,} values", node)
    sizes[id(node)] = size
    return size


def _check_scalar(node: yaml.ScalarNode) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in node.value):
        raise _wrong("half a character (a lone surrogate) is no text", node)
    pattern = _PLAIN_TAGS.get(node.tag)
    if pattern is None:
        return
    if not re.fullmatch(pattern, node.value):
        raise _wrong(f"{node.value[:40]!r} does not fit its tag {node.tag}", node)
    if len(node.value) > _MOST_DIGITS:
        raise _wrong(f"a number of {len(node.value):,} digits", node)


def _wrong(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _kind(values: object) -> str:
    if isinstance(values, list):
        return "a list"
    return "only text" if isinstance(values, str) else f"only {values!r}"
