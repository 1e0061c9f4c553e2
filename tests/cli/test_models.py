from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from vitrellis.cli import model_costs
from vitrellis.models import IN_TIMM, list_models


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vitrellis"


def test_our_models_and_those_of_the_published_systems_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_costs, "count", lambda *_: (1, 1))  # counting takes longest
    rows = json.loads(run_here("models", "--json").out)
    names = [row["name"] for row in rows]
    assert names == [*list_models(), *IN_TIMM]
    assert "pit_ti_224" in names
    assert "resnet26" not in names


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cifar_resnet56", {"parameters": 861_620, "img_size": [32, 32]}),
        ("pit_ti_224", {"parameters": 4_615_972, "img_size": [224, 224]}),
        ("dhvt_tiny_cifar_patch4", {"gmacs": 0.388}),
    ],
)
def test_costs_are_the_published_ones(name: str, published: dict[str, object]) -> None:
    (row,) = json.loads(run_here("models", name, "--num-classes", "100", "--json").out)
    assert set(row) == {"name", "parameters", "img_size", "macs"}
    assert published.items() <= (row | {"gmacs": round(row["macs"] / 1e9, 3)}).items()


def test_a_part_of_a_name_chooses() -> None:
    lines = run_apart("models", "resnet56").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["cifar_resnet56"]


def test_all_includes_timm() -> None:
    rows = json.loads(run_here("models", "--all", "deit3_small*", "--json").out)
    assert [row["name"] for row in rows] == [
        "deit3_small_patch16_224",
        "deit3_small_patch16_384",
    ]
    assert [row["img_size"] for row in rows] == [[224, 224], [384, 384]]
    assert 21e6 < rows[0]["parameters"] < 22.1e6


def test_all_without_a_filter_lists_names() -> None:
    rows = {row["name"]: row for row in json.loads(run_here("models", "--all", "--json").out)}
    assert len(rows) > 1000
    assert rows["resnet26"] | {"name": ""} == {
        "name": "",
        "parameters": None,
        "img_size": [224, 224],
        "macs": None,
    }


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    ended = vitrellis("models", "cifar_resnet65")
    assert_one_error(ended, 2, "no model matches 'cifar_resnet65'. Did you mean cifar_resnet")


def test_models_are_counted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_here("models", "cifar_resnet2*").out
    (file,) = cache.iterdir()

    def fail(*_: object) -> None:
        raise AssertionError("counted again")

    with monkeypatch.context() as patched:
        patched.setattr(model_costs, "count", fail)
        assert run_here("models", "cifar_resnet2*").out == first
    for content in ("{", "[]", '{"cifar_resnet20 10 32x32": ["a", 2]}'):
        file.write_text(content)
        assert run_here("models", "cifar_resnet2*").out == first


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cifar_resnet20" in run_here("models", "cifar_resnet20").out
