from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import assert_one_error, vitrellis
from vitrellis.cli.recipes import _TITLES
from vitrellis.recipe import load_recipe, packaged_recipes


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
    rows = {row["name"]: row for row in json.loads(vitrellis("recipes", "--json").stdout)}
    assert sorted(rows) == packaged_recipes()
    assert rows["cifar100-deit-ti-alg"]["published"] == "82.06"
    assert "doi 10.1109/TNNLS.2024.3515076" in rows["cifar100-deit-ti-alg"]["reproduces"]
    assert rows["demo"]["published"] is None


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
    lines = vitrellis("recipes", "keys", "objective.locality").stdout.splitlines()[1:]
    assert lines
    assert all(line.startswith("objective.locality.") for line in lines)


def test_words_are_listed_where_one_of_them_may_be_given() -> None:
    (line,) = vitrellis("recipes", "keys", "augmentation.auto_augment").stdout.splitlines()[1:]
    assert "One of: cifar10, imagenet, svhn." in line


def test_an_unknown_section_is_answered_with_the_nearest() -> None:
    ended = vitrellis("recipes", "keys", "optimiser")
    assert_one_error(ended, 2, "unknown section 'optimiser'. Did you mean 'optimizer'?")
