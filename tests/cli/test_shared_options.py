"""Options that have the same name and meaning in every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

from tests.cli.command import run_here
from vitrellis.assembly.build import device_of
from vitrellis.cli.console import quiet_console
from vitrellis.cli.main import app
from vitrellis.data.sources import Split
from vitrellis.errors import UsageError
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported
from vitrellis.training import display

SHOWS = {f"show {name}" for name in ("attention", "blocks", "maps", "mistakes", "tokens")}
RECIPES = {"recipes list", "recipes show", "recipes keys"}


def options() -> dict[str, dict[str, Any]]:
    """The options of every command and sub-command, by their longest name."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = command.commands if name in ("recipes", "show", "data") else {"": command}
        for part, inner in parts.items():
            by_name = {max(each.opts, key=len): each for each in inner.params}
            found[f"{name} {part}".strip()] = by_name
    return found


@pytest.mark.parametrize(
    ("option", "opts", "having"),
    [
        ("--quiet", ["--quiet", "-q"], options().keys() - RECIPES),  # which show no progress
        ("--json", ["--json"], options().keys() - {"demo"}),
        ("--device", ["--device"], {"eval", "predict", "prune", "bench", *SHOWS}),
        ("--precision", ["--precision"], {"eval", "predict", "prune", "bench", "show mistakes"}),
        ("--plot", None, {"eval", "prune", "compare", "bench", *SHOWS}),
        ("--num-images", None, {"prune", "export", *SHOWS}),
        ("--images", None, {"prune", "export", *SHOWS}),
        ("--weights", ["--weights"], {"eval", "predict", "export", *SHOWS}),
        ("--root", ["--root"], {"eval", "prune", "export", "data download", *SHOWS}),
    ],
)
def test_options_have_one_name_in_every_command(
    option: str, opts: list[str] | None, having: set[str]
) -> None:
    found = {}
    for command, by_name in options().items():
        for each in by_name.values():
            if option in each.opts:
                found[command] = each
    assert found.keys() == having
    assert all(opts is None or each.opts == opts for each in found.values())
    if option in ("--device", "--quiet"):
        assert len({each.help for each in found.values()}) == 1


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
@pytest.mark.parametrize("command", ["eval", "predict", "prune", "bench", *sorted(SHOWS)])
def test_a_device_that_is_missing(place: Path, command: str) -> None:
    images = ["images"] if command == "predict" else []
    words = [*command.split(), "runs/x", *images]
    ended = run_here(*words, "--device", "cuda", cwd=place, code=2)
    assert "--device cuda: torch finds no such device here. Use cpu, or auto" in ended.err


def test_names_of_devices() -> None:
    assert device_of("cpu") == torch.device("cpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(UsageError, match="--device mps"):
            device_of("mps")


def test_quiet_commands_show_no_progress(
    place: Path, photo_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consoles: list[Console] = []
    progress = display.reading

    def recorded(console: Console, title: str = "") -> object:
        consoles.append(console)
        return progress(console, title)

    monkeypatch.setattr(display, "reading", recorded)
    commands = [["eval", "runs/x"], ["predict", "runs/x", "images"]]
    commands += [["show", "mistakes", "runs/x", "--out", str(tmp_path / "m.png")]]
    commands += [["data", "inspect", "photos"], ["models", "vit_micro_patch7_28"]]
    for words in commands:
        where = photo_place if words[0] == "data" else place
        loud = run_here(*words, cwd=where)
        assert {console.quiet for console in consoles} == {False}
        consoles.clear()
        assert run_here(*words, "-q", cwd=where) == loud
        assert {console.quiet for console in consoles} == {True}
        consoles.clear()


def test_a_quiet_measurement_shows_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = []
    status = Console.status

    def recorded(console: Console, text: str) -> object:
        quiet.append(console.quiet)
        return status(console, text)

    monkeypatch.setattr(Console, "status", recorded)
    words = ["bench", "vit_micro_patch7_28", "--seconds", "0", "--batch-size", "2", "--json"]
    for more in ([], ["--quiet"]):
        json.loads(run_here(*words, *more).out)
    assert quiet == [False, True]


def test_a_console_that_prints_nothing_leaves_what_others_print_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal, where a bar catches all lines
    console = quiet_console()
    with display.reading(console) as progress, console.status("working"):
        progress(1, 2)
        typer.echo("a warning")
    assert capsys.readouterr().out == "a warning\n"


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
    assert "/dev/null: is a device or a pipe" in run_here(*words, "/dev/null", code=2).err
