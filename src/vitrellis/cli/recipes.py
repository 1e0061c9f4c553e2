"""`vitrellis recipes`: lists the recipes, prints one in full, and explains the keys of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from vitrellis.cli.console import help_of, new_table, print_json, print_table
from vitrellis.cli.recipe_names import OverridesArgument, RecipeArgument
from vitrellis.cli.shared_options import JsonOption
from vitrellis.cli.unknown_options import CommandWithKeys

_TITLES = {
    "demo": "The demo",
    "fashion-lt": "Long-tailed Fashion-MNIST",
    "photos": "Your own photos",
    "few": "Few images: does guidance help? (docs/results.md)",
    "solar": "Solar cells (a package's photos, unbalanced)",
    "cifar100": "CIFAR-100, as published",
    "cifar10-lt": "Long-tailed CIFAR-10, as published",
    "cifar100-lt": "Long-tailed CIFAR-100, as published",
    "flowers102": "Oxford Flowers-102, as published",
    "tiny-imagenet": "Tiny ImageNet, as published",
    "chaoyang": "Chaoyang, as published",
    "domainnet": "DomainNet, as published",
    "imagenet": "ImageNet, as published",
    "imagenet-lt": "ImageNet-LT, as published",
    "inaturalist-2018": "iNaturalist-2018, as published",
}
"""The titles of the list, by the beginning of the names of the recipes below them."""
_OTHERS = "Others"

recipes = typer.Typer(rich_markup_mode=None)
"""The command and its sub-commands."""


def _about(
    context: typer.Context,
    as_json: JsonOption = False,
) -> None:
    """List the packaged recipes, show one in full, or explain the keys of all.

    Examples:
      vitrellis recipes
      vitrellis recipes --json
      vitrellis recipes show cifar100-deit-ti-lg
      vitrellis recipes show my-recipe.yaml training.epochs=100
      vitrellis recipes keys optimizer
    """
    if context.invoked_subcommand is None:
        list_recipes(as_json)


def list_recipes(as_json: JsonOption = False) -> None:
    """List the packaged recipes, as `vitrellis recipes` alone does.

    Examples:
      vitrellis recipes list
      vitrellis recipes list --json
    """
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
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, without the opening comment.")
    ] = False,
) -> None:
    """Print a recipe with every key resolved, as YAML that `vitrellis train` accepts.

    Examples:
      vitrellis recipes show demo
      vitrellis recipes show photos data.root=~/my-photos training.epochs=60 > mine.yaml
    """
    from vitrellis.recipe import describe, header, load_recipe

    resolved = load_recipe(recipe, overrides or [])
    if as_json:
        print_json(resolved.model_dump(mode="json"))
        return
    for line in header(recipe).splitlines():
        typer.echo(f"# {line}".rstrip())
    typer.echo(describe(resolved), nl=False)


def keys(
    section: Annotated[
        str,
        typer.Argument(
            metavar="SECTION", help="Only this section, such as optimizer or objective.locality."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Explain the sections and keys that a recipe may have, with their defaults.

    Examples:
      vitrellis recipes keys
      vitrellis recipes keys augmentation
      vitrellis recipes keys optimizer --json
    """
    from vitrellis.errors import unknown_name
    from vitrellis.recipe import Recipe
    from vitrellis.recipe.explanation import explained_keys

    rows = list(explained_keys(Recipe))
    selected = [row for row in rows if not section or f"{row.key}.".startswith(f"{section}.")]
    if not selected:
        raise unknown_name("section", section, [row.key for row in rows if row.is_section])
    if as_json:
        print_json([row._asdict() for row in selected])
        return
    table = new_table("key", "default", "meaning")
    for row in selected:
        table.add_row(row.key, row.default, row.meaning)
    print_table(table)


def _rows() -> Iterator[dict[str, Any]]:
    """The list's row for each packaged recipe, with the facts of its opening comment."""
    from vitrellis.recipe.packaged import description_of, header, packaged_recipes

    for name in packaged_recipes():
        notes = header(name)
        published = _note(notes, "Published")
        yield {
            "name": name,
            "section": max(
                (s for s in _TITLES if f"{name}-".startswith(f"{s}-")), key=len, default=_OTHERS
            ),
            "description": description_of(name),
            "reproduces": _note(notes, "Reproduces"),
            "published": published.split()[0].rstrip(",")
            if published and published[0].isdigit()
            else None,
            "ours": _note(notes, "Ours"),
        }


def _note(notes: str, name: str) -> str | None:
    """The text after `name:` in a recipe's opening comment, its indented next lines included."""
    note: list[str] = []
    for line in notes.splitlines():
        if line.startswith(f"{name}:"):
            note.append(line.partition(":")[2].strip())
        elif note and line.startswith(" "):
            note.append(line.strip())
        elif note:
            break
    return " ".join(note) or None


recipes.callback(invoke_without_command=True, help=help_of(_about))(_about)
recipes.command("list", help=help_of(list_recipes))(list_recipes)
recipes.command(
    help=help_of(show), cls=CommandWithKeys, context_settings={"ignore_unknown_options": True}
)(show)
recipes.command(help=help_of(keys))(keys)
