"""Loads recipes from YAML files and the command line: base recipes, overrides, validation.

A file may extend another, `extends: name-or-path`, or several, each merged over those before it:
mappings are merged key by key, lists and plain values are replaced, and null removes the value of a
base. A key takes the place of those that exclude it, as `teacher.run` does of `teacher.recipe`. The
name and the description are never inherited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import ValidationError

from vitrellis.errors import UsageError, no_such_option
from vitrellis.recipe.exclusive import replaced_keys, without
from vitrellis.recipe.init_section import with_moved_keys
from vitrellis.recipe.messages import explain, keys_meant_by
from vitrellis.recipe.packaged import find_recipe, is_path
from vitrellis.recipe.yaml import parse_value, read_mapping

if TYPE_CHECKING:
    from vitrellis.recipe.recipe import Recipe

COMMAND_LINE = "command line"
_NOT_INHERITED = ("name", "description")


Overrides = Sequence[str] | Mapping[str, Any]
"""Changes to a recipe: `key=value` texts, or values by sections or by dotted keys."""


def load_recipe(name_or_path: str | Path, overrides: Overrides = ()) -> Recipe:
    """The packaged recipe of that name, or the recipe in that file.

    Args:
        name_or_path: A packaged recipe's name, or a path that ends in `.yaml`.
        overrides: Changes: a mapping of sections or of dotted keys, such as
            `{"training": {"epochs": 30}, "data.root": "photos"}`; or texts as on the command line,
            `key=value` with dotted keys and YAML values, such as `["training.epochs=30"]`.

    Raises:
        UsageError: If there is no such recipe, or it has mistakes, of which each is named.
    """
    _check_kind("recipe", name_or_path, (str, Path), "a name, or the path of a .yaml file")
    path, label = find_recipe(name_or_path, Path())
    draft = Draft.of_file(path, label)
    draft.merge(*_changes(overrides))
    return draft.finish(label)


def recipe_from(
    values: Mapping[str, Any], overrides: Overrides = (), *, name: str = "run"
) -> Recipe:
    """The recipe that a mapping of sections describes, such as `{"model": {"name": ...}, ...}`.

    Args:
        values: The content of a recipe file; it may extend a packaged recipe.
        overrides: Changes, as for `load_recipe`.
        name: The recipe's name if `values` has none.

    Raises:
        UsageError: If the recipe has mistakes, of which each is named.
    """
    draft = Draft.of_mapping(values, Path(), label=name, name=name, chain=())
    draft.merge(*_changes(overrides))
    return draft.finish(name)


def teacher_recipe(recipe: Recipe, name: str = "teacher") -> Recipe:
    """The recipe of a teacher, with the images, the seed and the machine of its student.

    The teacher learns from the student's training images, so that it never sees the images that the
    student is validated on, and balances classes if the student does. How often it sees each class
    (`data.sampler`) stays as in its own recipe. `teacher.overrides` come last, and may change all
    of this.

    Args:
        recipe: The student's recipe.
        name: The name of a teacher that is given by a recipe.

    Raises:
        UsageError: If there is no such recipe, or it has mistakes, of which each is named.
    """
    settings = recipe.all_teachers[name]
    assert settings.recipe is not None
    path, label = find_recipe(settings.recipe, Path())
    draft = Draft.of_file(path, label)
    split_seed = recipe.seed if recipe.data.seed is None else recipe.data.seed
    inherited = recipe.model_dump(include={"seed", "balance", "data", "machine"})
    inherited["data"]["seed"] = split_seed
    del inherited["data"]["sampler"]
    del inherited["machine"]["strategy"]  # a teacher is small
    if recipe.input.channels is not None:  # a teacher sees its student's images
        inherited["input"] = {"channels": recipe.input.channels}
    draft.merge(inherited, f"{recipe.name} (for its {name})")
    draft.merge(parse_overrides(settings.overrides), f"{recipe.name}: {name}.overrides")
    return draft.finish(label)


def check_teachers_end(recipe: Recipe) -> None:
    """Makes sure that a recipe's teachers, their teachers, and so on, come to an end.

    A recipe may be its own teacher, as in born-again networks (arXiv 1805.04770), if the overrides
    of some generation leave its teacher out.

    Raises:
        UsageError: If they go round in a circle, or a recipe is missing or has mistakes.
    """
    _follow_teachers(recipe, ())


def _follow_teachers(recipe: Recipe, above: tuple[tuple[str, ...], ...]) -> None:
    for name, settings in recipe.all_teachers.items():
        if settings.recipe is None:
            continue
        link = (settings.recipe, *settings.overrides)
        if link in above:
            circle = " → ".join(Path(each).stem for each, *_ in (*above[above.index(link) :], link))
            raise UsageError(
                f"{recipe.name}: {name}.recipe: teachers go round in a circle: {circle}. Name "
                f"another recipe, or end it by {name}.overrides.teacher=null"
            )
        _follow_teachers(teacher_recipe(recipe, name), (*above, link))


class Draft:
    """Merged values that are not validated yet, with the place where each was written."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[tuple[str, ...], str] = {}

    @classmethod
    def of_file(cls, path: Path, label: str, chain: tuple[Path, ...] = ()) -> Draft:
        """A file's values, merged over those of the files that it extends.

        Args:
            path: The file.
            label: The user's name for the file.
            chain: The files that extend this one.
        """
        resolved = path.resolve()
        if resolved in chain:
            circle = " → ".join(link.stem for link in (*chain, resolved))
            raise UsageError(f"{label}: extends itself: {circle}")
        values = read_mapping(path, label)
        return cls.of_mapping(
            values, path.parent, label=label, name=path.stem, chain=(*chain, resolved)
        )

    @classmethod
    def of_mapping(
        cls,
        values: Mapping[str, Any],
        folder: Path,
        *,
        label: str,
        name: str,
        chain: tuple[Path, ...],
    ) -> Draft:
        """Values, merged over those of their base files; relative paths start in `folder`."""
        draft = cls()
        extends = values.get("extends")
        bases = [] if extends is None else extends if isinstance(extends, list) else [extends]
        for base in bases:
            if not isinstance(base, str):
                raise UsageError(f"{label}: extends: {base!r} is not a recipe's name or path")
            try:
                base_path, base_label = find_recipe(base, folder)
            except UsageError as error:
                raise UsageError(f"{label}: extends: {error}") from error
            draft.merge_draft(cls.of_file(base_path, base_label, chain))
        for key in _NOT_INHERITED:
            draft.values.pop(key, None)
        without_bases = {key: value for key, value in values.items() if key != "extends"}
        without_bases["name"] = without_bases.get("name") or name
        draft.merge(without_bases, label, folder)
        return draft

    def merge_draft(self, other: Draft) -> None:
        """Merges another draft over this one."""
        for path in set(replaced_keys(self.values, other.values)):
            self.values = without(self.values, path)
        self.values = _merged(self.values, other.values)
        self.origins |= other.origins

    def merge(self, values: Mapping[str, Any], origin: str, folder: Path = Path()) -> None:
        """Merges `values` over the values so far."""
        anchored = _anchored(with_moved_keys(values), folder)
        for path in set(replaced_keys(self.values, anchored)):
            self.values = without(self.values, path)
        self.values = _merged(self.values, anchored)
        self._remember(anchored, (), origin)

    def finish(self, label: str) -> Recipe:
        """The validated recipe."""
        # loads torch; a recipe that cannot be found or read is refused without it
        from vitrellis.recipe.recipe import Recipe

        try:
            return Recipe.model_validate(self.values)
        except ValidationError as error:
            raise explain(
                error, model=Recipe, values=self.values, origins=self.origins, main=label
            ) from None

    def _remember(self, values: Mapping[str, Any], prefix: tuple[str, ...], origin: str) -> None:
        for key, value in values.items():
            self.origins[*prefix, key] = origin
            if isinstance(value, Mapping):
                self._remember(value, (*prefix, key), origin)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Nested values from `key=value` texts with dotted keys and YAML values; the last one counts.

    Raises:
        UsageError: If a text is not of that form.
    """
    values: dict[str, Any] = {}
    for position, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        if key.startswith("-"):
            raise _about_option(key, text if equals else "".join(overrides[position + 1 :][:1]))
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UsageError(
                f"{COMMAND_LINE}: {override!r} is not of the form key=value, "
                "such as training.epochs=30"
            )
        value = parse_value(text, f"{COMMAND_LINE}: {override}")
        for part in reversed(parts):
            value = {part: value}
        values = _merged(values, value)
    return values


def _about_option(name: str, value: str) -> UsageError:
    """The error for `--epochs 20`, with the key that was meant, if one has that name."""
    from vitrellis.recipe.recipe import Recipe

    meant = keys_meant_by(name.lstrip("-").replace("-", "_"), Recipe)
    of_student = [key for key in meant if not key.startswith("teacher.")]
    if len(of_student) != 1:
        return no_such_option(name)
    shown = value if value and "=" not in value else "VALUE"
    return no_such_option(f"{name}={shown}", of_student[0])


def _changes(overrides: Overrides) -> tuple[dict[str, Any], str]:
    """Nested values, and where they were written, for messages."""
    if isinstance(overrides, str):
        raise UsageError(f"overrides: {overrides!r} is one text; give a list, or a mapping")
    _check_kind("overrides", overrides, Iterable, "a list, or a mapping")
    if not isinstance(overrides, Mapping):
        overrides = list(overrides)
        for text in overrides:
            _check_kind("overrides", text, str, "a list of texts, such as 'training.epochs=30'")
        return parse_overrides(overrides), COMMAND_LINE
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        parts = key.split(".") if isinstance(key, str) else [""]
        if not all(parts):
            raise UsageError(f"overrides: {key!r} is not a key, such as training.epochs")
        for part in reversed(parts):
            value = {part: value}
        values = _merged(values, value)
    return values, "overrides"


def _check_kind(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kinds):
        raise UsageError(f"{name}: {value!r} is a {type(value).__name__}; give {expected}")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == "overrides" and isinstance(value, Mapping) and _are_texts(below):
            below = parse_overrides(below)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _anchored(values: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """`values` with teachers' recipe files, relative to `folder`, made absolute."""
    teachers = values.get("teachers")
    anchored = dict(values)
    if isinstance(teachers, Mapping):
        anchored["teachers"] = {k: _anchored_teacher(v, folder) for k, v in teachers.items()}
    if "teacher" in values:
        anchored["teacher"] = _anchored_teacher(values["teacher"], folder)
    return anchored


def _anchored_teacher(teacher: Any, folder: Path) -> Any:
    if not isinstance(teacher, Mapping):
        return teacher
    recipe = teacher.get("recipe")
    if not isinstance(recipe, str) or not is_path(recipe):
        return teacher
    path = (folder / Path(recipe).expanduser()).resolve()
    return {**teacher, "recipe": str(path)}
