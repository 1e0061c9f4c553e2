"""YAML of others: it cannot take the memory or the time, and every refusal names the place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from vitrellis.errors import UsageError
from vitrellis.recipe.yaml import parse_value, read_mapping

LAUGHS = "\n".join(
    ["a: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"b{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
)
"""A trillion texts in twelve lines ("billion laughs")."""

MERGES = "\n".join(
    ["a: &l0 {x: 1}"]
    + [f"b{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}]}}" for n in range(1, 12)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "expands to more than"),
        (MERGES, "expands to more than"),
        ("a: &a [*a]", "contains it"),
        ("a: &a {b: {c: *a}}", "contains it"),
        ("a: " + "[" * 600 + "]" * 600, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than"),
        ("seed: " + "9" * 5000, "a number of 5,000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("x: !!timestamp 2001-99-99", "is not read"),
        ("x: !!python/object/apply:os.system [id]", "is not read"),
        ("x: !!int one", "does not fit its tag"),
        ("x: !!bool perhaps", "does not fit its tag"),
        (r'name: "\ud800"', "half a character"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    tracemalloc.start()
    with pytest.raises(UsageError, match=rf"x\.yaml: not valid YAML: .*{message}"):
        read_mapping(file, "x.yaml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    with pytest.raises(UsageError, match=message):
        parse_value(text, "command line: x")


def test_a_large_file_is_no_recipe(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("# \n" * 400_000)
    with pytest.raises(UsageError, match=r"x\.yaml: larger than 1,000,000 bytes"):
        read_mapping(file, "x.yaml")


def test_an_endless_file_is_no_recipe() -> None:
    with pytest.raises(UsageError, match="larger than"):
        read_mapping(Path("/dev/zero"), "/dev/zero")


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    same = {"x": 1, "y": 2}
    assert read_mapping(file, "x.yaml") == {"a": same, "b": {"x": 1, "y": 3}, "c": [same, same]}
