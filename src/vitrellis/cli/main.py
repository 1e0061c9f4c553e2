"""The command `vitrellis`: its sub-commands, its errors and its exit codes.

The exit code is 0 if the command succeeded, 1 if the job failed, and 2 if the words were wrong.
A new command is a file in this folder, imported here, and an entry in `_COMMANDS`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vitrellis import __version__
from vitrellis.cli.bench import bench
from vitrellis.cli.cluster_job import is_cluster_job, queue_again, stop_on_signals
from vitrellis.cli.compare import compare
from vitrellis.cli.console import error_console, fail, help_of, process_number
from vitrellis.cli.data import data
from vitrellis.cli.demo import demo
from vitrellis.cli.evaluate import evaluate
from vitrellis.cli.export import export
from vitrellis.cli.features import features
from vitrellis.cli.import_checkpoint import import_checkpoint
from vitrellis.cli.models import models
from vitrellis.cli.output import Output
from vitrellis.cli.predict import predict
from vitrellis.cli.prune import prune
from vitrellis.cli.recipes import recipes
from vitrellis.cli.show import show
from vitrellis.cli.submit import launch
from vitrellis.cli.sweep import sweep
from vitrellis.cli.train import train
from vitrellis.cli.unknown_options import CommandWithKeys
from vitrellis.cli.verify import verify
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.training.interrupts import Interrupted

_EXIT_OF_AN_INTERRUPTED_COMMAND = 130  # typer's, for Ctrl-C; ours is "the job failed"
_SECONDS_FOR_THE_FIRST = 10.0
"""How long a process waits for the first one to report an error of both; torchrun ends it then."""

app = typer.Typer(
    name="vitrellis",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "launch": launch,
    "eval": evaluate,
    "predict": predict,
    "prune": prune,
    "export": export,
    "compare": compare,
    "sweep": sweep,
    "features": features,
    "verify": verify,
    "models": models,
    "bench": bench,
    "import": import_checkpoint,
}
_TAKES_KEYS = {"demo", "train", "launch", "compare", "sweep", "features", "bench", "import"}
"""Commands that take key=value; a key that is written as an option is explained with them."""
for _name, _command in _COMMANDS.items():
    _takes_keys = _name in _TAKES_KEYS
    app.command(
        _name,
        cls=CommandWithKeys if _takes_keys else None,
        help=help_of(_command),
        context_settings={"ignore_unknown_options": _takes_keys},
    )(_command)
app.add_typer(recipes, name="recipes")
app.add_typer(show, name="show")
app.add_typer(data, name="data")


def main() -> None:
    """Runs the command line and ends the process."""
    # Threads that spin for long while they wait slow each other down if anything else runs on the
    # machine; threads that never spin are slow by themselves. Two demo students side by side
    # trained at 90 images/s each with libgomp's own count, at 200 with this one and at 400 with
    # none; a single one at 790, 760 and 430. libgomp reads the count when torch is loaded
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # in large pages: a new batch of 64 images of 224 pixels takes a third of the time
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # several processes look for parameters without a gradient, as terms may be switched off later,
    # and PyTorch would warn when there are none yet; this is read when torch is loaded
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    rank = process_number()
    output = Output()
    try:
        with _first_process_prints(rank), _missing_users_are_named():
            if is_cluster_job():
                stop_on_signals()
            app(prog_name="vitrellis")
    except Interrupted as error:
        if is_cluster_job():
            queue_again()
        _end(error, rank)
    except VitrellisError as error:
        _end(error, rank)
    except OSError as error:
        failed = output.error()
        if failed is None and error.filename is None:
            raise
        named = VitrellisError(f"{os.fsdecode(error.filename or '')}: {error.strerror}")
        _end(failed or named, rank)
    except SystemExit as end:
        failed = output.error()
        if failed is not None:
            _end(failed, rank)
        if end.code == _EXIT_OF_AN_INTERRUPTED_COMMAND:
            _end(VitrellisError("interrupted"), rank, is_shared=True)
        raise


def _end(error: VitrellisError, rank: int, *, is_shared: bool | None = None) -> NoReturn:
    """Prints an error, once for all processes if they share it, and ends this one."""
    if is_shared is None:
        is_shared = error.is_shared
    if rank == 0 or not is_shared:
        with contextlib.suppress(OSError):  # standard error is full, too: nobody can be told
            fail(error, process=rank)
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun ends all processes as soon as one has ended: the first has to speak before
        with contextlib.suppress(Interrupted):
            time.sleep(_SECONDS_FOR_THE_FIRST)
    sys.exit(error.exit_code)


@contextlib.contextmanager
def _missing_users_are_named() -> Iterator[None]:
    """Turns what `Path.expanduser` says of `~NAME` without such a user into an error."""
    try:
        yield
    except RuntimeError as error:
        words = [word for word in sys.argv[1:] if "~" in word]
        if "home directory" not in str(error) or not words:
            raise
        raise UsageError(f"{words[0]}: there is no user of the name after ~ here") from error


@contextlib.contextmanager
def _first_process_prints(rank: int) -> Iterator[None]:
    """Leaves out what the others print: they run the same command, and would print it again."""
    if rank == 0:
        yield
        return
    logger = logging.getLogger("vitrellis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    error_console.quiet = True
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        error_console.quiet = False
        logger.setLevel(level)  # in a notebook or a test, the process goes on


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"vitrellis {__version__}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train Vision Transformers from scratch when images are few or classes unbalanced.

    Examples:
      vitrellis demo                               guidance on 1,000 images, in minutes
      vitrellis train photos data.root=~/my-photos
      vitrellis eval runs/photos
      vitrellis predict runs/photos new-photos/
      vitrellis recipes                            the recipes in the package
    """


app.callback(help=help_of(_about))(_about)
