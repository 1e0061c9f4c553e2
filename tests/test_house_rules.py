"""What `CONTRIBUTING.md` asks of every file, held by a test where ruff has no rule for it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "vitrellis"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
ALL_FILES += sorted((ROOT / "benchmarks").rglob("*.py"))

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "tools", "core"}

ROOMS_THAT_MAY_BE_IMPORTED = {
    "models": {"errors"},
    "objectives": {"errors"},
    "data": {"errors"},
    "recipe": {"errors", "settings"},
}
"""For rooms that stand on their own: the others they may import. `recipe` is all `recipe*.py`."""

OUTSIDERS = {"typer", "rich", "pydantic", "yaml", "lightning", "tensorboard", "wandb", "mlflow"}
FORBIDDEN_LIBRARIES = {
    "models": OUTSIDERS,
    "objectives": OUTSIDERS | {"pathlib", "os", "io", "json", "safetensors"},
    "data": OUTSIDERS - {"yaml"},
    "recipe": {"torch", "torchvision", "timm", "lightning", "numpy", "typer", "rich"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(module: str) -> str:
    """`vitrellis.data.sources.base` is in the room `data`, `vitrellis.recipe.files` in `recipe`."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else ""
    return "recipe" if room.startswith("recipe") else room


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every module that a file imports, and each name from it ("" for the module itself)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last one, without the docstring."""
    end = function.end_lineno
    assert end is not None
    lines = end - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_there_is_something_to_check() -> None:
    assert PACKAGE / "recipe" / "recipe.py" in SOURCES
    assert len(ALL_FILES) > len(SOURCES)


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_files_are_short(path: Path) -> None:
    limit = 500 if path.parent == PACKAGE / "models" else 400
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    too_long = {f.name: code_lines(f) for f in functions if code_lines(f) > 60}
    assert too_long == {}


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_a_file_is_named_after_what_is_in_it(path: Path) -> None:
    assert path.stem not in VAGUE_NAMES
    assert VAGUE_NAMES.isdisjoint(path.relative_to(ROOT).parent.parts)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_point_one_way(path: Path) -> None:
    room = room_of(module_of(path))
    allowed = ROOMS_THAT_MAY_BE_IMPORTED.get(room)
    if allowed is None:
        allowed = {room_of(module_of(other)) for other in SOURCES} - {"cli", "__main__"}
        allowed |= {"cli"} if room in ("cli", "__main__") else set()
    ours = {module for module, _ in imports(path) if module.startswith("vitrellis.")}
    assert {room_of(module) for module in ours} <= allowed | {room}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_use_only_the_libraries_they_need(path: Path) -> None:
    libraries = {module.partition(".")[0] for module, _ in imports(path)}
    assert libraries.isdisjoint(FORBIDDEN_LIBRARIES.get(room_of(module_of(path)), set()))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_private_names_stay_in_their_file(path: Path) -> None:
    taken = [
        f"{module}.{name}"
        for module, name in imports(path)
        if module.startswith("vitrellis")
        and any(
            part.startswith("_") and not part.startswith("__")
            for part in (*module.split("."), name)
        )
    ]
    assert taken == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_to_do(path: Path) -> None:
    text = path.read_text()
    assert "TODO" not in text
    assert "FIXME" not in text


@pytest.mark.parametrize("module", ["vitrellis", "vitrellis.errors", "vitrellis.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "torchvision", "timm", "lightning", "pydantic", "numpy", "PIL", "yaml")
    script = f"import sys, {module}; print(sorted(set(sys.modules) & set({heavy})))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_recipes_load_without_torch() -> None:
    script = "import sys, vitrellis.recipe.files; print('torch' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "False\n"
