"""Options that have the same name and meaning in every command."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.cli.command import run_here
from vitrellis.assembly.build import device_of
from vitrellis.cli.main import _COMMANDS
from vitrellis.data.sources import Split
from vitrellis.errors import UsageError
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported
from vitrellis.training import display

OPTIONS = {
    "plot": {"eval", "prune", "compare", "bench"},
    "device": {"eval", "predict", "prune", "bench"},
    "precision": {"eval", "predict", "bench"},
    "as_json": {"eval", "predict", "prune", "export", "compare", "sweep", "verify", "models"}
    | {"bench"},
    "quiet": {"demo", "train", "eval", "predict", "prune", "export", "compare", "sweep"}
    | {"features"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_commands_have_the_options_that_a_user_would_reach_for(option: str) -> None:
    having = {
        name
        for name, command in _COMMANDS.items()
        if option in inspect.signature(command).parameters
    }
    assert having >= OPTIONS[option]


def test_predictions_in_bfloat16_are_those_of_autocast(place: Path, test_images: Split) -> None:
    words = ("runs/x", "images/0.png", "--json", "--device", "cpu", "--top", "10")
    printed = json.loads(run_here("predict", *words, "--precision", "bfloat16", cwd=place).out)[0][
        "predictions"
    ]
    trained = load_exported(RunDirectory(place / "runs" / "x").best_model)
    pixels = trained.preprocessing.transform().resize_and_crop(test_images.images[0])[None]
    with torch.autocast("cpu", torch.bfloat16):
        expected = trained.predict_resized(pixels)[0]
    exact = trained.predict_resized(pixels)[0]
    by_name = {guess["class"]: guess["probability"] for guess in printed}
    found = torch.tensor([by_name[name] for name in trained.class_names])
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=0)
    assert not torch.equal(exact, expected)


def test_figures_in_bfloat16_are_close(place: Path) -> None:
    def loss(*words: str) -> float:
        figures = json.loads(run_here("eval", "runs/x", "--json", *words, cwd=place).out)
        return float(figures["nll"])

    exact, rounded = loss("--device", "cpu"), loss("--precision", "bfloat16")
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["eval", "predict", "prune"])
def test_a_device_that_is_missing(place: Path, command: str) -> None:
    images = ["images"] if command == "predict" else []
    ended = run_here(command, "runs/x", *images, "--device", "cuda", cwd=place, code=2)
    assert "--device cuda: torch finds no such device here. Use cpu, or auto" in ended.err


def test_names_of_devices() -> None:
    assert device_of("cpu") == torch.device("cpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(UsageError, match="--device mps"):
            device_of("mps")


def test_quiet_commands_show_no_progress(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consoles: list[Console] = []
    progress = display.reading

    def recorded(console: Console, title: str = "") -> object:
        consoles.append(console)
        return progress(console, title)

    monkeypatch.setattr(display, "reading", recorded)
    commands = (["eval", "runs/x"], ["predict", "runs/x", "images"])
    for words in commands:
        loud = run_here(*words, cwd=place)
        assert not consoles.pop().quiet
        assert run_here(*words, "-q", cwd=place) == loud
        assert consoles.pop().quiet


def test_eval_draws_the_confusion_matrix_by_either_name(place: Path, tmp_path: Path) -> None:
    for option in ("--plot", "--confusion"):
        run_here("eval", "runs/x", option, str(tmp_path / f"{option}.png"), cwd=place)
    first, second = (file.read_bytes() for file in sorted(tmp_path.iterdir()))
    assert first == second
    assert re.match(rb"\x89PNG", first)


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "nowhere", "--plot"],
        ["eval", "nowhere", "--plot-counts"],
        ["compare", "nowhere", "--plot"],
        ["prune", "nowhere", "--plot"],
        ["bench", "nowhere", "--plot"],
        ["bench", "--train", "nowhere", "--trace"],
        ["data", "inspect", "nowhere", "--html"],
        ["show", "blocks", "nowhere", "--plot"],
        ["show", "attention", "nowhere", "--out"],
        ["show", "mistakes", "nowhere", "--out"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_refused_first(words: list[str]) -> None:
    assert "/dev/null: is a device or a pipe" in run_here(*words, "/dev/null", code=1).err
