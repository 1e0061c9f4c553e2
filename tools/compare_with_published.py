"""Compare the packaged recipes with the published settings, which are facts in the tests.

    python tools/compare_with_published.py            # writes docs/published-settings.md
    python tools/compare_with_published.py --check    # fails where a recipe differs unsaid
    python tools/compare_with_published.py --recipe cifar100-lt-deit-b    # prints its part

Each file in `tests/recipe/published/` holds what was read from one published code at one commit:
groups of recipes, and for each setting the published value, in the words of our recipe keys, and
the file in which it stands. A setting in which we differ has a reason and its size beside it, and a
phrase that the comments of the recipe must contain; so has what no key says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vitrellis.recipe import Recipe, effective_lr, load_recipe, packaged_recipes

ROOT = Path(__file__).parents[1]
FACTS = ROOT / "tests" / "recipe" / "published"
PAGE = ROOT / "docs" / "published-settings.md"
RECIPES = ROOT / "src" / "vitrellis" / "recipes"


@dataclass(frozen=True)
class Setting:
    """A published value.

    Attributes:
        key: A key of our recipes, or a name of `DERIVED`.
        published: The published value, in the words of that key.
        source: The place where it stands, in the published code.
    """

    key: str
    published: Any
    source: str


@dataclass(frozen=True)
class Difference:
    """What is not as published, and stays so.

    Attributes:
        about: The key, or what it is about if no key says it.
        reason: The reason and the size of the difference.
        says: A phrase in the comments of each recipe of the group, which says it there.
        published: The published way, where no key says it.
        ours: Our way, where no key says it.
    """

    about: str
    reason: str
    says: str
    published: str = ""
    ours: str = ""


@dataclass(frozen=True)
class Group:
    """Recipes with the same published settings.

    Attributes:
        title: The heading on the page.
        code: The published code and its commit.
        recipes: The names of the recipes.
        settings: The published values.
        differences: What stays different, of the settings and besides them.
        note: A sentence under the heading, empty for none.
    """

    title: str
    code: str
    recipes: tuple[str, ...]
    settings: tuple[Setting, ...]
    differences: tuple[Difference, ...] = ()
    note: str = ""


def _warmup_lr(recipe: Recipe) -> float:
    return effective_lr(recipe) * recipe.schedule.warmup_factor


DERIVED = {"effective_lr": effective_lr, "warmup_lr": _warmup_lr}
"""Numbers that follow from several keys: the rate after the warm-up, and at its beginning."""


def read_groups(folder: Path = FACTS) -> list[Group]:
    """The groups of all files of facts."""
    contents = [yaml.safe_load(f.read_text(encoding="utf-8")) for f in folder.glob("*.yaml")]
    contents.sort(key=lambda content: int(content["order"]))
    return [group for content in contents for group in _read(content)]


def _read(content: Mapping[str, Any]) -> Iterator[Group]:
    for group in content["groups"]:
        matched = [
            name
            for name in packaged_recipes()
            if any(fnmatch(name, pattern) for pattern in group["recipes"])
            and not any(fnmatch(name, pattern) for pattern in group.get("except", ()))
        ]
        main = group.get("file", "")
        yield Group(
            title=group["title"],
            code=f"{content['code']} ({content['commit']})",
            recipes=tuple(matched),
            settings=tuple(
                Setting(key, value, _place(", ".join(source), main))
                for key, (value, *source) in group["settings"].items()
            ),
            differences=tuple(
                Difference(**difference) for difference in group.get("differences", ())
            ),
            note=group.get("note", ""),
        )


def _place(source: str, main: str) -> str:
    """The place of a fact: names without a file stand in the group's file."""
    return source if not main or "." in source.split()[0].rstrip(",") else f"{main}, {source}"


@cache
def resolved(name: str) -> Recipe:
    """A packaged recipe."""
    return load_recipe(name)


def value_of(recipe: Recipe, key: str) -> Any:
    """The value of a recipe at a key, as JSON would hold it; None where a section is left out."""
    if key in DERIVED:
        return DERIVED[key](recipe)
    value: Any = recipe.model_dump(mode="json")
    before = ""
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part) if before == "args" else value[part]  # a model may lack arguments
        before = part
    return value


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, numbers to nine digits."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, Sequence) and isinstance(second, Sequence) and not isinstance(first, str):
        return len(first) == len(second) and all(map(same, first, second))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (first, second))
    if numbers:
        return bool(abs(first - second) <= 1e-9 * max(abs(first), abs(second)))
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def comments(name: str) -> str:
    """All comments of a packaged recipe and of the recipes that it extends, in one line."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    words = " ".join(line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)
    bases = yaml.safe_load(text).get("extends", [])
    listed = bases if isinstance(bases, list) else [bases]
    return " ".join([words, *map(comments, listed)])


def wrong(group: Group) -> list[str]:
    """The lines on what differs without being said, or is said and does not differ."""
    lines = [] if group.recipes else [f"{group.title}: no recipe has such a name"]
    said = {difference.about for difference in group.differences if not difference.published}
    differing = set()
    for name in group.recipes:
        recipe = resolved(name)
        for setting in group.settings:
            ours = value_of(recipe, setting.key)
            if not same(ours, setting.published):
                differing.add(setting.key)
                if setting.key not in said:
                    lines.append(
                        f"{name}: {setting.key} is {in_words(ours)}, published "
                        f"{in_words(setting.published)} ({setting.source})"
                    )
        lines += [
            f"{name}: no comment says {difference.says!r} (on {difference.about})"
            for difference in group.differences
            if difference.says not in comments(name)
        ]
    stale = said - differing
    return [*lines, *(f"{group.title}: {key} is as published by now" for key in sorted(stale))]


def in_words(value: Any) -> str:
    """A value as a recipe would say it, in one line."""
    if isinstance(value, str):
        return value
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def page(groups: Sequence[Group]) -> str:
    """The page of the documentation, as Markdown."""
    lines = [
        "# Ours and the published",
        "",
        "Every published setting that we could read, beside that of the recipe. This page is made",
        "by `tools/compare_with_published.py` from the facts in `tests/recipe/published`; a test",
        "fails when a recipe differs from them and this page does not say why. `effective_lr` is",
        "the learning rate after the warm-up, and `warmup_lr` that at its beginning.",
        "",
        "| recipe | sections |",
        "|---|---|",
    ]
    for name in packaged_recipes():
        links = [_link(group.title) for group in groups if name in group.recipes]
        lines += [f"| {name} | {' · '.join(links)} |"] if links else []
    for group in groups:
        lines += ["", *_section(group)]
    return "\n".join([*lines, ""])


def _link(title: str) -> str:
    anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    return f"[{title}](#{anchor})"


def _section(group: Group) -> Iterator[str]:
    """A section of the page: one row for each setting, and for each difference beside them."""
    yield f"## {group.title}"
    yield ""
    yield f"From {group.code}. Recipes: {', '.join(group.recipes)}."
    yield from [group.note] if group.note else []
    yield from ("", "| setting | published | ours | where |", "|---|---|---|---|")
    reasons = {difference.about: difference.reason for difference in group.differences}
    recipes = [resolved(name) for name in group.recipes]
    for setting in group.settings:
        values = [value_of(recipe, setting.key) for recipe in recipes]
        ours = "the same"
        if not all(same(value, setting.published) for value in values):
            ours = " or ".join(sorted({in_words(value) for value in values}))
            ours += f". {reasons.get(setting.key, '')}".rstrip(" .") + "."
        yield _row(setting.key, in_words(setting.published), ours, setting.source)
    for difference in group.differences:
        if difference.published:
            ours = f"{difference.ours}. {difference.reason}"
            yield _row(difference.about, difference.published, ours, "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main() -> int:
    """Writes the page, or checks the recipes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if unsaid")
    parser.add_argument("--recipe", help="print what is known of this recipe, and write nothing")
    arguments = parser.parse_args()
    groups = read_groups()
    if arguments.recipe:
        groups = [
            replace(g, recipes=(arguments.recipe,)) for g in groups if arguments.recipe in g.recipes
        ]
    mistakes = [line for group in groups for line in wrong(group)]
    lines = mistakes or [f"{len(groups)} groups of recipes: every difference is said"]
    if arguments.recipe:
        lines = [line for group in groups for line in (*_section(group), "")] + mistakes
    elif not arguments.check:
        PAGE.write_text(page(groups), encoding="utf-8")
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
