"""`vitrellis export` on runs that short trainings made."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from tests.cli.command import assert_one_error, run_here, vitrellis
from vitrellis.export.graph import ImageClassifier
from vitrellis.export.torch_program import DESCRIPTION_FILE

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict_onnx.py"


@pytest.fixture(scope="module")
def photo_onnx(photo_place: Path) -> dict[str, object]:
    """The figures of an export of `runs/photos` to `photos.onnx`."""
    words = ["export", "runs/photos", "--out", "photos.onnx", "--json"]
    figures: dict[str, object] = json.loads(run_here(*words, cwd=photo_place).out)
    return figures


def probabilities(place: Path, model: str) -> list[dict[str, str]]:
    out = run_here("predict", model, "photos", "--csv", cwd=place).out
    return list(csv.DictReader(io.StringIO(out)))


def test_onnx_is_compared_with_predict_and_predicts_the_same(
    photo_place: Path, photo_onnx: dict[str, object]
) -> None:
    assert photo_onnx["label_agreement"] == 1
    assert float(str(photo_onnx["largest_difference"])) < 1e-5
    expected, found = (probabilities(photo_place, m) for m in ("runs/photos", "photos.onnx"))
    assert len(found) == 20
    for row, other in zip(expected, found, strict=True):
        assert (row["file"], row["class"]) == (other["file"], other["class"])
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)


def test_an_onnx_file_says_its_classes_preprocessing_and_free_batch(
    photo_place: Path, photo_onnx: dict[str, object]
) -> None:
    session = onnxruntime.InferenceSession(photo_place / str(photo_onnx["out"]))
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    facts = session.get_modelmeta().custom_metadata_map
    config = json.loads((photo_place / "runs/photos/model/config.json").read_text())
    assert json.loads(facts["class_names"]) == ["ash", "fir"] == config["label_names"]
    steps = json.loads(facts["preprocessing"])
    for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
        assert steps[key] == config["pretrained_cfg"][key]
    assert json.loads((photo_place / "photos.onnx.json").read_text())["preprocessing"] == steps


def test_the_example_predicts_the_same_without_torch(
    photo_place: Path, photo_onnx: dict[str, object]
) -> None:
    files = sorted(str(p.relative_to(photo_place)) for p in (photo_place / "photos").rglob("*.png"))
    script = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]); "
    script += "assert 'torch' not in sys.modules"
    words = [sys.executable, "-c", script, str(EXAMPLE), str(photo_onnx["out"]), *files]
    out = subprocess.run(words, cwd=photo_place, capture_output=True, text=True, check=True).stdout
    rows = {row["file"]: row for row in probabilities(photo_place, "runs/photos")}
    assert len(out.splitlines()) == len(rows) == 20
    for file, name, probability in (line.split(",") for line in out.splitlines()):
        assert rows[file]["class"] == name
        assert float(rows[file]["probability"]) == pytest.approx(float(probability), abs=1e-5)


def test_a_torch_program_holds_its_description(photo_place: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.pt2"
    words = ["export", "runs/photos", "--format", "torch-export", "--out", str(path)]
    assert "100.0" in run_here(*words, cwd=photo_place).out
    extra_files = {DESCRIPTION_FILE: ""}
    module = torch.export.load(path, extra_files=extra_files).module()
    _, scores = module(torch.zeros(7, 3, 64, 64, dtype=torch.uint8))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(7))
    assert json.loads(extra_files[DESCRIPTION_FILE])["class_names"] == ["ash", "fir"]


def test_timm_reads_its_folder_alone(photo_place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    run_here("export", "runs/photos", "--format", "timm", "--out", str(folder), cwd=photo_place)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.num_classes == 2
    assert create_transform(**resolve_data_config({}, model=model)) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_a_model_that_differs_is_not_written(
    photo_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighter(self: ImageClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images.float() * self.scale * 0.5 + self.shift)
        return logits, logits.softmax(dim=-1)

    monkeypatch.setattr(ImageClassifier, "forward", brighter)
    words = ["export", "runs/photos", "--format", "torch-export"]
    words += ["--out", str(tmp_path / "photos.pt2")]
    ended = vitrellis(*words, cwd=photo_place)
    assert_one_error(ended, 1, "not written, because the exported model differs")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_by_force_alone(photo_place: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.pt2"
    path.write_text("precious")
    words = ["export", "runs/photos", "--format", "torch-export", "--out", str(path)]
    assert_one_error(vitrellis(*words, cwd=photo_place), 1, "--force")
    assert path.read_text() == "precious"
    run_here(*words, "--force", "--num-images", "4", cwd=photo_place)
    assert path.stat().st_size > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos.pt2", "photos.pt2.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--half", "--int8"], "choose one"),
        (["--half", "--format", "timm"], "--half: is for --format onnx"),
        (["--out", "model.pt2"], "should end in .onnx"),
        (["--free-size", "--out", "new.onnx"], "position embeddings for one size"),
    ],
    ids=["two precisions", "timm in half", "another ending", "a fixed model"],
)
def test_options_that_do_not_fit(photo_place: Path, words: list[str], message: str) -> None:
    assert_one_error(vitrellis("export", "runs/photos", *words, cwd=photo_place), 2, message)


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_onnx_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    assert_one_error(vitrellis("predict", "bad.onnx", "a.png", cwd=tmp_path), 1, "bad.onnx: ")


@pytest.mark.parametrize(("option", "precision"), [("--half", "float16"), ("--int8", "int8")])
def test_smaller_numbers_are_within_their_tolerance(
    photo_place: Path, tmp_path: Path, option: str, precision: str
) -> None:
    path = tmp_path / "small.onnx"
    words = ["export", "runs/photos", option, "--out", str(path), "--json"]
    figures = json.loads(run_here(*words, cwd=photo_place).out)
    assert figures["precision"] == precision
    full = (photo_place / "photos.onnx").stat().st_size
    assert path.stat().st_size < 0.75 * full
    assert 0 < figures["largest_difference"] < 0.1
