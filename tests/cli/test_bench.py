"""`vitrellis bench`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from PIL import Image

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from vitrellis.analysis.cost import Cost, Measurement, Timing

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


def test_a_table_for_people(tmp_path: Path) -> None:
    out = run_apart("bench", "dhvt_micro_patch4", "--img-size", "28", *QUICK).out
    lines = out.splitlines()
    assert "torch" in lines[0]
    assert lines[1].split()[:4] == ["model", "pixels", "parameters", "MACs"]
    assert lines[2].split()[:4] == ["dhvt_micro_patch4", "28", "0.39", "M"]


def test_wrong_words() -> None:
    assert_one_error(vitrellis("bench", "dhvt_micro_patch5"), 2, "unknown model")
    assert_one_error(vitrellis("bench", "runs/none"), 1, "runs/none does not exist")
    words = ("bench", "cifar_resnet8", "--precision", "bf16")
    assert_one_error(vitrellis(*words), 2, "Did you mean 'bfloat16'")
