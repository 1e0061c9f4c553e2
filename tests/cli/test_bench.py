"""`vitrellis bench`."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from PIL import Image

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from vitrellis.analysis.cost import Cost, Timing
from vitrellis.analysis.measurement import Measurement
from vitrellis.analysis.pruning_gain import Gain, PruningGain, take_turns

bench_file = sys.modules["vitrellis.cli.bench"]  # the package has a function of that name
QUICK = ("--seconds", "0", "--threads", "1", "--batch-size", "4", "--device", "cpu")


def test_models_sizes_and_precisions(tmp_path: Path) -> None:
    words = ["bench", "vit_micro_patch7_28", "cifar_resnet8", "--img-size", "28", "--img-size"]
    words += ["14", "--precision", "float32", "--precision", "bfloat16", *QUICK]
    figures = json.loads(run_here(*words, "--json", cwd=tmp_path).out)
    rows = figures["rows"]
    assert len(rows) == 2 * 2 * 2
    assert {row["model"] for row in rows} == {"vit_micro_patch7_28", "cifar_resnet8"}
    large, small = (
        next(row for row in rows if row["model"] == "cifar_resnet8" and row["img_size"] == [n, n])
        for n in (28, 14)
    )
    assert large["parameters"] == small["parameters"]
    assert large["macs"] > 3.5 * small["macs"]
    assert large["activation_bytes_per_image"] > 3.5 * small["activation_bytes_per_image"]
    for row in rows:
        timing = row["step_ms"]
        assert 0 < timing["fastest"] <= timing["median"] <= timing["slowest"]


def test_times_become_speeds_and_milliseconds() -> None:
    slow, fast = Timing(0.5, 0.4, 0.75), Timing(0.125, 0.1, 0.25)
    cost = Cost(7, 9, 11, 13, None, latency=fast, forward=fast, step=slow, batch_size=8)
    row = Measurement("m", (28, 14), "float32", False, None, cost).to_json()
    assert row["forward_images_per_second"] == 64
    assert row["step_images_per_second"] == 16
    assert row["step_ms"] == {"median": 500, "fastest": 400, "slowest": 750}
    assert row["img_size"] == [28, 14]


def test_a_run_is_measured_and_drawn(place: Path, tmp_path: Path) -> None:
    picture = tmp_path / "speed.png"
    out = run_here("bench", "runs/x", *QUICK, "--csv", "--plot", str(picture), cwd=place).out
    (row,) = csv.DictReader(io.StringIO(out))
    results = json.loads((place / "runs" / "x" / "results.json").read_text())
    assert row["model"] == "runs/x"
    assert float(row["top1"]) == results["best"]["test"]["top1"]
    with Image.open(picture) as image:
        assert image.width > 500


def test_pruning_is_compared_with_all_tokens_and_judged(tmp_path: Path) -> None:
    words = ["bench", "vit_micro_patch7_28", "--keep-rate", "0.5", "--img-size", "28", *QUICK]
    plain, pruned = json.loads(run_here(*words, "--json", cwd=tmp_path).out)["rows"]
    assert (plain["model"], plain["pruning"]) == ("vit_micro_patch7_28", None)
    assert pruned["model"] == "vit_micro_patch7_28, keep 0.5"
    assert pruned["macs"] < plain["macs"]
    for gain in (pruned["pruning"]["forward"], pruned["pruning"]["step"]):
        assert 0 < gain["lowest"] <= gain["ratio"] <= gain["highest"]
    printed = run_here(*words, cwd=tmp_path).out
    assert "vit_micro_patch7_28, keep 0.5, 28 px: pruning " in printed


def test_pruning_that_does_not_pay_is_called_so() -> None:
    """With 0.9, 1.02 and 1.4 times the speed."""
    gains = [Gain(10.0, 10 * ratio, ratio, ratio, ratio) for ratio in (0.9, 1.02, 1.4)]
    verdicts = [PruningGain(gain).verdict() for gain in gains]
    words = ["costs more than it saves", "saves next to nothing", "pruning pays"]
    assert all(said in verdict for said, verdict in zip(words, verdicts, strict=True))
    assert "1.40 times" in verdicts[2]


def test_speeds_are_measured_in_turns() -> None:
    order = []

    def slow() -> None:
        order.append("slow")
        sum(range(200_000))

    def fast() -> None:
        order.append("fast")
        sum(range(20_000))

    gain = take_turns(slow, fast, num_images=1, device=torch.device("cpu"), seconds=0)
    assert order == ["slow", "fast"] * 6
    assert gain.ratio > 3
    assert gain.lowest <= gain.ratio <= gain.highest
    assert gain.before < gain.after


def test_many_backbones_are_measured_by_one_command(tmp_path: Path) -> None:
    """With two in the place of all, which take minutes."""
    picture = tmp_path / "backbones.png"
    with (
        patch.object(bench_file, "BACKBONES", ("resnet18",)),
        patch.object(bench_file, "PRUNED_BACKBONES", ("vit_micro_patch8_64",)),
    ):
        words = ["bench", "--preset", "backbones", "--img-size", "32", *QUICK]
        printed = run_here(*words, "--plot", str(picture), "--json", cwd=tmp_path).out
    names = [row["model"] for row in json.loads(printed)["rows"]]
    rates = [f"vit_micro_patch8_64, keep {rate}" for rate in (0.9, 0.7, 0.5)]
    assert names == ["resnet18", "vit_micro_patch8_64", *rates]
    assert picture.stat().st_size > 5000
    for name in (*bench_file.BACKBONES, *bench_file.PRUNED_BACKBONES):
        assert timm.is_model(name)


def test_a_table_for_people(tmp_path: Path) -> None:
    out = run_apart("bench", "dhvt_micro_patch4", "--img-size", "28", *QUICK).out
    lines = out.splitlines()
    assert "torch" in lines[0]
    assert lines[1].split()[:4] == ["model", "pixels", "parameters", "MACs"]
    assert lines[2].split()[:4] == ["dhvt_micro_patch4", "28", "0.39", "M"]


def test_wrong_words() -> None:
    assert_one_error(vitrellis("bench", "dhvt_micro_patch5"), 2, "unknown model")
    assert_one_error(vitrellis("bench", "runs/none"), 1, "runs/none does not exist")
    assert_one_error(vitrellis("bench"), 2, "--preset backbones")
    too_much = vitrellis("bench", "vit_micro_patch7_28", "--keep-rate", "1.2")
    assert_one_error(too_much, 2, "above 0 and below 1")
    cnn = vitrellis("bench", "cifar_resnet8", "--keep-rate", "0.5", *QUICK)
    assert_one_error(cnn, 2, "cifar_resnet8: tokens cannot be left out")
    words = ("bench", "cifar_resnet8", "--precision", "bf16")
    assert_one_error(vitrellis(*words), 2, "Did you mean 'bfloat16'")
