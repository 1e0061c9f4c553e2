from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import assert_one_error, vitrellis
from vitrellis.cli.recipes import _TITLES
from vitrellis.objectives import TERMS
from vitrellis.recipe import Recipe, load_recipe, packaged_recipes, recipe_from
from vitrellis.recipe.explanation import explained_keys


def test_the_list_has_every_packaged_recipe_and_no_base() -> None:
    ended = vitrellis("recipes")
    assert ended.returncode == 0
    names = [line.split()[0] for line in ended.stdout.splitlines() if line.startswith("  ")]
    assert sorted(names) == packaged_recipes()
    assert "_demo" not in ended.stdout


def test_the_list_quotes_published_figures() -> None:
    lines = vitrellis("recipes").stdout.splitlines()
    line = next(line for line in lines if "cifar100-deit-ti-lg" in line)
    assert line.split()[-1] == "78.15"


def test_every_recipe_belongs_to_a_titled_part_of_the_list() -> None:
    rows = json.loads(vitrellis("recipes", "--json").stdout)
    assert {row["section"] for row in rows} == set(_TITLES)
    sections = {row["name"]: row["section"] for row in rows}
    assert sections["cifar100-lt-resnet32"] == "cifar100-lt"
    assert sections["cifar100-resnet56"] == "cifar100"


def test_the_list_as_json() -> None:
    printed = vitrellis("recipes", "--json").stdout
    assert vitrellis("recipes", "list", "--json").stdout == printed
    rows = {row["name"]: row for row in json.loads(printed)}
    assert sorted(rows) == packaged_recipes()
    assert rows["cifar100-deit-ti-alg"]["published"] == "82.06"
    assert "doi 10.1109/TNNLS.2024.3515076" in rows["cifar100-deit-ti-alg"]["reproduces"]
    assert rows["demo"]["published"] is None
    assert all(row["description"] == load_recipe(name).description for name, row in rows.items())


def test_what_is_shown_can_be_loaded(tmp_path: Path) -> None:
    ended = vitrellis("recipes", "show", "demo", "training.epochs=50", "optimizer.lr=1e-4")
    path = tmp_path / "mine.yaml"
    path.write_text(ended.stdout)
    assert load_recipe(path) == load_recipe("demo", ["training.epochs=50", "optimizer.lr=1e-4"])
    assert ended.stdout.startswith("# Reproduces: ")


def test_a_file_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# Mine.\nextends: demo-alone\nseed: 7\n")
    ended = vitrellis("recipes", "show", "mine.yaml", cwd=tmp_path)
    assert ended.stdout.startswith("# Mine.\nname: mine\n")
    assert "\nseed: 7\n" in ended.stdout


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    ended = vitrellis("recipes", "show", "dmo")
    assert_one_error(ended, 2, "unknown recipe 'dmo'. Did you mean 'demo'?")


def test_a_misspelt_key_is_answered_with_the_nearest() -> None:
    ended = vitrellis("recipes", "show", "demo", "training.epoch=3")
    assert_one_error(ended, 2, "training.epoch: unknown key. Did you mean 'epochs'?")


def test_keys_are_explained_with_their_defaults() -> None:
    lines = vitrellis("recipes", "keys").stdout.splitlines()
    batch = next(line for line in lines if line.startswith("training.batch_size "))
    assert batch.split()[1] == "64"
    assert "Images per optimizer step" in batch
    assert any(line.startswith("input.normalization ") for line in lines)
    assert not any(line.startswith("input.normalization.") for line in lines)


def test_keys_of_one_section() -> None:
    section, *lines = vitrellis("recipes", "keys", "objective.locality").stdout.splitlines()[1:]
    assert section.startswith("objective.locality ")
    assert lines
    assert all(line.startswith("objective.locality.") for line in lines)


def test_keys_and_recipes_as_json() -> None:
    rows = json.loads(vitrellis("recipes", "keys", "optimizer", "--json").stdout)
    assert {row["key"] for row in rows} >= {"optimizer", "optimizer.lr"}
    assert next(row["default"] for row in rows if row["key"] == "optimizer.lr") == "0.001"
    shown = json.loads(vitrellis("recipes", "show", "demo", "seed=7", "--json").stdout)
    assert recipe_from(shown) == load_recipe("demo", ["seed=7"])


def test_sections_are_explained_and_said_to_be_off_where_they_are() -> None:
    rows = {row.key: row for row in explained_keys(Recipe) if row.is_section}
    assert rows["optimizer.sam"].default == "off unless given"
    assert "arXiv 2010.01412" in rows["optimizer.sam"].meaning
    off = {key for key, row in rows.items() if row.default}
    guided = {f"objective.{term.key}" for term in TERMS} - {"objective.cross_entropy"}
    assert off == {"data.long_tail", "teacher", "deferred", "pruning", "optimizer.sam"} | guided
    for term in TERMS:
        first_line = str(term.__doc__).splitlines()[0]
        assert rows[f"objective.{term.key}"].meaning.startswith(first_line)
    row = next(
        line
        for line in vitrellis("recipes", "keys").stdout.splitlines()
        if line.startswith("optimizer.sam ")
    )
    assert row.split()[1:4] == ["off", "unless", "given"]


@pytest.mark.parametrize(
    "words",
    [
        ["recipes"],
        ["recipes", "--json"],
        ["recipes", "show", "dmo"],
        ["recipes", "show", "demo", "=3"],
        ["train", "dmo"],
    ],
)
def test_recipes_are_listed_and_sought_without_torch(words: list[str]) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.argv = ['vitrellis', *{words}]\n"
        "from vitrellis.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.stdout.splitlines()[-1] == "False", ended.stderr


def test_words_are_listed_where_one_of_them_may_be_given() -> None:
    (line,) = vitrellis("recipes", "keys", "augmentation.auto_augment").stdout.splitlines()[1:]
    assert "One of: cifar10, imagenet, svhn." in line


def test_an_unknown_section_is_answered_with_the_nearest() -> None:
    ended = vitrellis("recipes", "keys", "optimiser")
    assert_one_error(ended, 2, "unknown section 'optimiser'. Did you mean 'optimizer'?")
