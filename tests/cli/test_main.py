from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from vitrellis import __version__
from vitrellis.cli import main as module
from vitrellis.cli.console import console as module_console
from vitrellis.cli.console import help_of
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.training.interrupts import Interrupted

COMMANDS = sorted(typer.main.get_command(module.app).commands)  # type: ignore[attr-defined]


def run_with(monkeypatch: pytest.MonkeyPatch, ending: BaseException) -> int:
    """How `main` ends when the command raises `ending`."""

    def command(prog_name: str) -> None:
        raise ending

    monkeypatch.setattr(module, "app", command)
    with pytest.raises(SystemExit) as end:
        module.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_lists_the_commands_with_examples() -> None:
    out = run_apart("--help").out
    for command in COMMANDS:
        assert f"\n  {command} " in out
    assert "\n    vitrellis eval runs/photos\n" in out
    assert run_here("-h").out == out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    assert f"\n    vitrellis {command}" in run_here(command, "--help").out


def test_the_version_is_printed() -> None:
    assert run_here("--version").out == f"vitrellis {__version__}\n"


@pytest.mark.parametrize("words", [["bogus"], ["train"], ["recipes", "show"], ["models", "--x"]])
def test_wrong_words_end_with_2(words: list[str]) -> None:
    assert "Error: " in run_here(*words, code=2).err


@pytest.mark.parametrize(
    ("error", "code"),
    [(VitrellisError("a.jpg: [bold] torn"), 1), (UsageError("a.jpg: [bold] torn"), 2)],
)
def test_an_error_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: VitrellisError,
    code: int,
) -> None:
    assert run_with(monkeypatch, error) == code
    assert capsys.readouterr().err == "error: a.jpg: [bold] torn\n"


def test_a_long_error_is_not_broken_into_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(monkeypatch, VitrellisError("word " * 100 + "end"))
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_of_the_system_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "a.png")) == 1
    assert capsys.readouterr().err == "error: a.png: No space left on device\n"


def test_names_that_are_too_long_for_the_system(tmp_path: Path) -> None:
    name = "a" * 300
    message = run_here("eval", name, cwd=tmp_path, code=1).err  # as for any run that is not there
    assert message.startswith(f"error: {name}")
    assert message.endswith(": File name too long\n")


OUTPUTS = [
    *("train demo-alone --out", "demo --out", "launch demo-alone --dry-run --out"),
    *("compare demo-alone --out", "compare demo-alone --plot", "features demo --out"),
    *("sweep demo-alone --over seed=0..3 --out", "prune runs/x --out", "prune runs/x --plot"),
    *("import c.pth --source dhvt --model m --out", "export runs/x --out", "bench m --plot"),
    *("eval runs/x --plot", "eval runs/x --plot-counts", "bench --train demo --trace"),
    *("show attention runs/x --out", "show mistakes runs/x --out", "show blocks runs/x --plot"),
    *("data pack photos", "data download cifar10 --root", "data inspect photos --html"),
]


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_name_that_cannot_be_written_is_a_wrong_word(words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, reason in (
        ("a" * 300, "File name too long"),
        (f"new/{'a' * 300}/x", "File name too long"),
        ("file/x", "file is a file, and no folder"),
        ("~nobody-of-this-name/x", "there is no user of the name after ~"),
    ):
        assert_one_error(vitrellis(*words.split(), name, cwd=tmp_path), 2, reason)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, ZeroDivisionError())


def test_ctrl_c_ends_with_1_and_without_a_traceback() -> None:
    script = (
        "import signal, typer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # even if ignored above
        "from vitrellis.cli import main\n"
        "main.app = typer.Typer(pretty_exceptions_enable=False)\n"
        "main.app.command()(lambda: signal.raise_signal(signal.SIGINT))\n"
        "main.main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_a_reader_who_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m vitrellis recipes show demo | head -1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""


def test_examples_keep_their_lines() -> None:
    def command() -> None:
        """Do it.

        Examples:
          one
          two
        """

    app = typer.Typer(rich_markup_mode=None)
    app.command(help=help_of(command))(command)
    assert "  Examples:\n    one\n    two\n" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (VitrellisError("torn"), "error in process 1: torn\n"),  # the first may know nothing of it
        (UsageError("wrong"), ""),  # the first says the same
        (Interrupted("stopped"), ""),
    ],
)
def test_only_the_first_of_several_processes_prints(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    error: VitrellisError,
    printed: str,
) -> None:
    def command(prog_name: str) -> None:
        typer.echo("a table")
        module_console.print("a summary")
        raise error

    monkeypatch.setattr(module, "app", command)
    for rank, expected in (("0", f"error: {error}\n"), ("1", printed)):
        monkeypatch.setenv(variable, rank)
        monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # main sets it, and it would stay
        with pytest.raises(SystemExit) as end:
            module.main()
        assert end.value.code == error.exit_code
        said = capsys.readouterr()
        assert said.err == expected
        assert said.out == ("a table\na summary\n" if rank == "0" else "")
