"""`vitrellis recipes`: which there are, what one says in full, what can be said at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from rich.text import Text

from vitrellis.cli.console import help_of, new_table, print_json, print_table

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_TITLES = {
    "demo": "The demo",
    "fashion-lt": "Long-tailed Fashion-MNIST",
    "photos": "Your own photos",
    "solar": "Solar cells (a package's photos, unbalanced)",
    "cifar100": "CIFAR-100, as published",
    "cifar10-lt": "Long-tailed CIFAR-10, as published",
    "cifar100-lt": "Long-tailed CIFAR-100, as published",
    "flowers102": "Oxford Flowers-102, as published",
    "tiny-imagenet": "Tiny ImageNet, as published",
    "chaoyang": "Chaoyang, as published",
    "imagenet-lt": "ImageNet-LT, as published",
    "inaturalist-2018": "iNaturalist-2018, as published",
}
"""What the list puts together: recipes whose names begin so, under which title."""
_OTHERS = "Others"

recipes = typer.Typer(rich_markup_mode=None)
"""The command and its sub-commands."""


def _list(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the packaged recipes, show one in full, or explain the keys of all.

    Examples:
      vitrellis recipes
      vitrellis recipes show cifar100-deit-ti-lg
      vitrellis recipes show my-recipe.yaml training.epochs=100
      vitrellis recipes keys optimizer
    """
    if context.invoked_subcommand is not None:
        return
    rows = list(_rows())
    if as_json:
        print_json(rows)
        return
    table = new_table("recipe", "what it trains", ">published %")
    for section, title in (_TITLES | {_OTHERS: _OTHERS}).items():
        members = [row for row in rows if row["section"] == section]
        if members:
            table.add_row(Text(title, style="bold"))
        for row in members:
            table.add_row(f"  {row['name']}", row["description"], row["published"])
        table.add_section()
    print_table(table)


def show(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes, such as training.epochs=100."),
    ] = None,
) -> None:
    """Print a recipe with every key resolved, as YAML that `vitrellis train` accepts.

    Examples:
      vitrellis recipes show demo
      vitrellis recipes show photos data.root=~/my-photos training.epochs=60 > mine.yaml
    """
    from vitrellis.recipe import describe, header, load_recipe

    resolved = load_recipe(recipe, overrides or [])
    for line in header(recipe).splitlines():
        typer.echo(f"# {line}".rstrip())
    typer.echo(describe(resolved), nl=False)


def keys(
    section: Annotated[
        str, typer.Argument(help="Only this section, such as optimizer or objective.locality.")
    ] = "",
) -> None:
    """Explain the keys that a recipe may have, with their defaults.

    Examples:
      vitrellis recipes keys
      vitrellis recipes keys augmentation
    """
    from vitrellis.errors import unknown_name
    from vitrellis.recipe import Recipe

    rows = list(_explained(Recipe))
    chosen = [row for row in rows if f"{row[0]}.".startswith(f"{section}." if section else "")]
    if not chosen:
        raise unknown_name(
            "section", section, {key.rpartition(".")[0] for key, _, _ in rows} - {""}
        )
    table = new_table("key", "default", "meaning")
    for row in chosen:
        table.add_row(*row)
    print_table(table)


def _rows() -> Iterator[dict[str, Any]]:
    """What the list shows of each packaged recipe, with the comment that it opens with."""
    from vitrellis.recipe import header, load_recipe, packaged_recipes

    for name in packaged_recipes():
        notes = header(name)
        published = _note(notes, "Published")
        yield {
            "name": name,
            "section": max(
                (s for s in _TITLES if f"{name}-".startswith(f"{s}-")), key=len, default=_OTHERS
            ),
            "description": load_recipe(name).description,
            "reproduces": _note(notes, "Reproduces"),
            "published": published.split()[0].rstrip(",")
            if published and published[0].isdigit()
            else None,
            "ours": _note(notes, "Ours"),
        }


def _note(notes: str, name: str) -> str | None:
    """What follows `name:` in a recipe's opening comment, its indented next lines included."""
    found: list[str] = []
    for line in notes.splitlines():
        if line.startswith(f"{name}:"):
            found.append(line.partition(":")[2].strip())
        elif found and line.startswith(" "):
            found.append(line.strip())
        elif found:
            break
    return " ".join(found) or None


def _explained(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of every key of a section, and of the sections within it."""
    for name, field in section.model_fields.items():
        inner = _inner_section(field)
        if inner is not None:
            yield from _explained(inner, f"{prefix}{name}.")
            continue
        meaning = " ".join((field.description or "").split())
        words = _words(field)
        if words:
            meaning += f" One of: {', '.join(words)}."
        yield f"{prefix}{name}", _default(field), meaning


def _words(field: FieldInfo) -> list[str]:
    """What may be said, where it is one of a few words, or one of them or nothing."""
    for choice in (field.annotation, *get_args(field.annotation)):
        if get_origin(choice) is Literal:
            return [str(word).lower() for word in get_args(choice)]
    return []


def _inner_section(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds a section, or a section or nothing."""
    from pydantic import BaseModel

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


recipes.callback(invoke_without_command=True, help=help_of(_list))(_list)
recipes.command(help=help_of(show))(show)
recipes.command(help=help_of(keys))(keys)
