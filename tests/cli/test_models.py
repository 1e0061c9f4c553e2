from __future__ import annotations

import json

from tests.cli.command import assert_one_error, vitrellis


def test_our_models_are_listed_with_their_parameters() -> None:
    ended = vitrellis("models", "--num-classes", "100", "--json")
    assert ended.returncode == 0, ended.stderr
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    resnet = rows["cifar_resnet56"]
    assert resnet["parameters"] == 861_620  # as published
    assert resnet["img_size"] == [32, 32]
    assert round(rows["dhvt_tiny_cifar_patch4"]["macs"] / 1e9, 3) == 0.388  # as published
    assert set(resnet) == {"name", "parameters", "img_size", "macs"}
    assert "resnet18" not in rows
    assert all(row["parameters"] > 0 for row in rows.values())


def test_a_part_of_a_name_chooses() -> None:
    ended = vitrellis("models", "resnet5")
    lines = ended.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["cifar_resnet56"]


def test_all_includes_timm() -> None:
    rows = json.loads(vitrellis("models", "--all", "deit_tiny_*", "--json").stdout)
    deit = next(row for row in rows if row["name"] == "deit_tiny_patch16_224")
    assert deit == {"name": deit["name"], "parameters": None, "img_size": [224, 224], "macs": None}
    assert all(row["name"].startswith("deit_tiny_") for row in rows)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    ended = vitrellis("models", "cifar_resnet65")
    assert_one_error(ended, 2, "no model matches 'cifar_resnet65'. Did you mean cifar_resnet")
