"""The documentation is true: its Python runs, its commands fit, and what it names exists."""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest
from pydantic import BaseModel

from vitrellis.data.sources import SOURCES
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, load_recipe, packaged_recipes
from vitrellis.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vitrellis"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted((ROOT / "docs").rglob("*.md"))]
MAPS = [README, CONTRIBUTING, ROOT / "docs" / "methods.md", ROOT / "docs" / "glossary.md"]
"""Pages on which everything in backticks is looked up."""

FILES_OF_USERS = ("runs/", "new-photos/", "my-photos/")
FOREIGN_NAMES = {".venv", "assert", "key=value", "model.", "model.safetensors", "register_model"}
"""Names of Python, timm, Lightning and the texts themselves."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def spans(page: Path) -> list[str]:
    """The texts in single backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)  # raises where a block is wrong
    assert namespace


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"links to {target}"
        assert not anchor or anchor in anchors(linked), f"links to {target}"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of all `vitrellis train` and `vitrellis compare` commands of a page."""
    for text in [*blocks(page, ""), *spans(page)]:
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"vitrellis (train|compare) [a-z]", line):
                yield shlex.split(line, comments=True)[2:]


def mistakes(words: list[str]) -> list[str]:
    """The mistakes in the recipes and the keys of a command."""
    recipes = takewhile(lambda word: "=" not in word and not word.startswith("-"), words)
    overrides = [word for word in words if re.match(r"[a-z_.0-9]+=", word)]
    found = []
    for recipe in recipes:
        if not recipe.startswith(FILES_OF_USERS):
            try:
                load_recipe(recipe, overrides)
            except UsageError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_and_keys_of_commands_exist(page: Path) -> None:
    assert [(words, wrong) for words in commands(page) if (wrong := mistakes(words))] == []


def test_commands_are_found_and_mistakes_in_them_too() -> None:
    assert len(list(commands(ROOT / "README.md"))) >= 1
    assert sum(len(list(commands(page))) for page in PAGES) >= 12
    assert "unknown recipe" in mistakes(["no-such-recipe"])[0]
    assert "unknown key" in mistakes(["demo", "training.epoch=3"])[0]


@cache
def defined_names() -> set[str]:
    """The names of all modules, classes, functions, arguments and variables of the package."""
    names = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


@cache
def files_of_a_run() -> set[str]:
    run = RunDirectory(Path())
    values = (getattr(run, name) for name in dir(RunDirectory) if not name.startswith("_"))
    return {str(value) for value in values if isinstance(value, Path)}


def is_file(text: str) -> bool:
    return (
        text in files_of_a_run()
        or text.startswith(FILES_OF_USERS)
        or any((folder / text).exists() for folder in (ROOT, PACKAGE))
    )


def is_key(text: str) -> bool:
    """Whether a recipe may have such a key."""
    section: type[BaseModel] = Recipe
    parts = text.split(".")
    for depth, part in enumerate(parts, start=1):
        field = section.model_fields.get(part)
        if field is None:
            return False
        if part in ("args", "overrides") or depth == len(parts):  # they have keys of their own
            return True
        choices = [c for c in get_args(field.annotation) or [field.annotation] if c is not NoneType]
        inner = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return False
        section = inner
    return False


def is_importable(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError):
        return False
    return True


def exists(span: str) -> bool:
    """Whether what a span of code names is there; spans that are no name are not looked up."""
    key, is_setting, _ = span.partition("=")
    key = key.removeprefix("teacher.overrides.")
    if is_setting and re.fullmatch(r"[a-z_.]+", key):
        return is_key(key)
    if not re.fullmatch(r"[\w./-]+", span) or span.startswith("-"):
        return True
    if "/" in span or re.search(r"\.(py|md|yaml|toml|json|jsonl|ckpt)$", span):
        return is_file(span)
    if span.startswith("vitrellis."):
        return is_importable(span)
    if "-" in span:
        return span in packaged_recipes() or span in SOURCES
    if "." in span and span.islower():
        return is_key(span)
    if span in packaged_recipes():
        return True
    return all(part in defined_names() for part in span.split("."))


@pytest.mark.parametrize("page", MAPS, ids=name_of)
def test_everything_in_backticks_exists(page: Path) -> None:
    names = [span for span in spans(page) if span not in FOREIGN_NAMES]
    assert len(names) > 5
    assert [span for span in names if not exists(span)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keys_and_modules_exist_on_every_page(page: Path) -> None:
    first_words = ("vitrellis.", *(f"{section}." for section in Recipe.model_fields))
    names = [span for span in spans(page) if span.startswith(first_words) or "=" in span]
    assert [span for span in names if span not in FOREIGN_NAMES and not exists(span)] == []


@pytest.mark.parametrize(
    ("real", "made_up"),
    [
        ("objectives/locality.py", "objectives/locally.py"),
        ("tests/parity/", "tests/parody/"),
        ("docs/methods.md", "docs/methodes.md"),
        ("checkpoints/last.ckpt", "checkpoints/first.ckpt"),
        ("results.json", "outcome.json"),
        ("vitrellis.objectives.Term", "vitrellis.objectives.Terms"),
        ("vitrellis.data.canvas", "vitrellis.data.canvases"),
        ("cifar100-deit-ti-lg", "cifar100-deit-ti-lgg"),
        ("objective.locality.weight", "objective.locality.beta"),
        ("optimizer.lr", "optimizer.rate"),
        ("balance=true", "balanced=true"),
        ("model.args.keep_rate", "model.arguments.keep_rate"),
        ("RunWriter.save_last", "RunWriter.save_newest"),
        ("LocalityGuidance", "LocalityGuide"),
        ("effective_lr", "effective_learning_rate"),
    ],
)
def test_made_up_names_are_noticed(real: str, made_up: str) -> None:
    assert exists(real)
    assert not exists(made_up)
