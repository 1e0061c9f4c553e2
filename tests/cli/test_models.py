from __future__ import annotations

import json

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis


def test_our_models_are_listed_with_their_parameters() -> None:
    out = run_here("models", "--num-classes", "100", "--json").out
    rows = {row["name"]: row for row in json.loads(out)}
    resnet = rows["cifar_resnet56"]
    assert resnet["parameters"] == 861_620  # as published
    assert resnet["img_size"] == [32, 32]
    assert round(rows["dhvt_tiny_cifar_patch4"]["macs"] / 1e9, 3) == 0.388  # as published
    assert set(resnet) == {"name", "parameters", "img_size", "macs"}
    assert rows["pit_ti_224"]["parameters"] == 4_615_972  # as published
    assert "resnet26" not in rows
    assert all(row["parameters"] > 0 for row in rows.values())


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
