"""The rules of `CONTRIBUTING.md` for every file, tested where ruff has no rule for them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "vitrellis"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
ALL_FILES += sorted((ROOT / "benchmarks").rglob("*.py"))

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "tools", "core"}

ROOMS = {
    "errors": set[str](),
    "public_names": set(),
    "settings": {"errors"},
    "devices": set(),
    "user_cache": set(),
    "models": {"errors", "user_cache"},
    "objectives": {"errors", "public_names", "settings"},
    "data": {"errors", "settings", "devices", "user_cache"},
    "recipe": {"errors", "public_names", "settings", "objectives", "data"},
    "runs": {"errors", "models", "data"},
    "analysis": {"errors", "models", "data", "user_cache"},
    "export": {"errors", "models", "data", "runs"},
    "report": {"errors", "data", "runs", "analysis"},
}
"""Every room, with the rooms it may import. A room stands below those that may import it."""
ROOMS["teachers"] = {"errors", "models", "objectives", "data", "runs", "analysis"}
ROOMS["training"] = ROOMS["teachers"] | {"teachers", "devices"}
ROOMS["assembly"] = ROOMS["training"] | {"recipe", "training"}
ROOMS["experiments"] = ROOMS["assembly"] | {"assembly", "report"}
ROOMS["cli"] = ROOMS["experiments"] | {"experiments", "export", "user_cache"}

OUTSIDERS = {"typer", "rich", "yaml", "lightning", "tensorboard", "wandb", "mlflow"}
FORBIDDEN_LIBRARIES = {
    "models": OUTSIDERS | {"pydantic"},
    "objectives": OUTSIDERS | {"pathlib", "os", "io", "json", "safetensors"},
    "data": OUTSIDERS,
    "recipe": {"lightning", "typer", "rich"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(module: str) -> str:
    """The second part of a module's name; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every module that a file imports, and each name from it ("" for the module itself)."""
    for node in ast.walk(tree_of(path)):
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


def test_files_are_short() -> None:
    def limit(path: Path) -> int:
        return 500 if path.parent == PACKAGE / "models" else 400

    lengths = {path: len(path.read_text().splitlines()) for path in ALL_FILES}
    assert {name_of(p): n for p, n in lengths.items() if n > limit(p)} == {}


def test_functions_are_short() -> None:
    functions = (
        (path, node)
        for path in ALL_FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {f"{name_of(path)}:{node.name}": code_lines(node) for path, node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}


def test_a_file_is_named_after_what_is_in_it() -> None:
    vague = [
        name_of(path)
        for path in ALL_FILES
        if not VAGUE_NAMES.isdisjoint((path.stem, *path.relative_to(ROOT).parent.parts))
    ]
    assert vague == []


def test_no_two_files_of_the_package_have_one_name() -> None:
    stems = Counter(path.stem for path in SOURCES if path.stem not in ("__init__", "__main__"))
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_two_public_classes_have_one_name() -> None:
    classes = Counter(
        node.name
        for path in SOURCES
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_every_room_is_listed() -> None:
    rooms = {room_of(module_of(path)) for path in SOURCES} - {"__init__", "__main__"}
    assert rooms == ROOMS.keys()


def test_rooms_point_one_way() -> None:
    seen: set[str] = set()
    for room, below in ROOMS.items():  # each room comes after those it may import
        assert below <= seen, f"{room} may import a room that stands above it"
        seen.add(room)
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        if (room := room_of(module_of(path))) in ROOMS
        for module, _ in imports(path)
        if module.startswith("vitrellis.") and room_of(module) not in ROOMS[room] | {room}
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {module_of(path).removesuffix(".__init__"): path for path in SOURCES}
    left = {
        module: {
            submodule if (submodule := f"{name}.{imported}") in names else name
            for name, imported in imports(path)
            if name in names
        }
        - {module}
        for module, path in names.items()
    }
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in free}
    assert left == {}


def test_rooms_use_only_the_libraries_they_need() -> None:
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        for module, _ in imports(path)
        if module.partition(".")[0] in FORBIDDEN_LIBRARIES.get(room_of(module_of(path)), ())
    ]
    assert wrong == []


def test_private_names_stay_in_their_file() -> None:
    taken = [
        f"{name_of(path)}: {module}.{name}"
        for path in SOURCES
        for module, name in imports(path)
        if module.startswith("vitrellis")
        and any(
            part.startswith("_") and not part.startswith("__")
            for part in (*module.split("."), name)
        )
    ]
    assert taken == []


def test_nothing_is_left_to_do() -> None:
    marked = [
        name_of(path)
        for path in SOURCES
        if any(word in path.read_text() for word in ("TODO", "FIXME"))
    ]
    assert marked == []


@pytest.mark.parametrize("module", ["vitrellis", "vitrellis.errors", "vitrellis.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "torchvision", "timm", "lightning", "pydantic", "numpy", "PIL", "yaml")
    script = f"import sys, {module}; print(sorted(set(sys.modules) & set({heavy})))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_contributing_has_the_same_table_of_rooms() -> None:
    folders = {room for room in ROOMS if (PACKAGE / room).is_dir()}
    rows = re.findall(
        r"^\| `(\w+)/` \|.*\| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    allowed = {}
    for room, cell in rows:
        named = set(re.findall(r"`(\w+)`", cell))
        allowed[room] = folders - named - {room} if cell.startswith("all others") else named
    assert allowed == {room: ROOMS[room] & folders for room in folders}
