"""Processes that are killed, or find the disk full, at the n-th operation that writes.

Python's own files, torch's and safetensors' all go through a shim in C (`shim.c`). After each
fault, the same command has to end with the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.campaign.findings import Findings, share_of
from tests.training.command import FEW_IMAGES, TINY, assert_same_weights, write_few_images
from vitrellis.cli.main import main
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.verification import verify_run

GUIDED = ["train", "demo", *TINY, FEW_IMAGES, "training.epochs=1", "data.train_size=null"]
ALONE = ["train", "demo-alone", FEW_IMAGES, "training.epochs=1", "training.batch_size=32"]
ALONE += ["schedule.warmup_epochs=0", "machine.threads=1", "machine.accelerator=cpu"]
ALONE += ["model.name=vit_micro_patch7_28", "data.train_size=null"]
COMMANDS: dict[str, list[str]] = {
    "alone": ALONE,
    "ema": [*ALONE, "training.ema=0.9", "training.checkpoint_minutes=0"],
    "guided": GUIDED,
    "offline": [*GUIDED, "teacher.offline=true"],
    "fresh": [*ALONE, "--fresh"],
}
FAULTS = {"kill": 2, "torn write": 3, "full disk": 4, "one write without room": 5}
"""The numbers that `shim.c` knows them by."""

_COUNT = 1
_SECONDS = 300


class Ended(NamedTuple):
    """A command that has ended, or was ended."""

    code: int | None
    printed: str


@dataclass(frozen=True)
class Shim:
    """The compiled shim, which is loaded by the processes that `run` starts.

    Attributes:
        library: The file.
        server: Starts the processes.
    """

    library: Path
    server: multiprocessing.context.ForkServerContext

    def run(self, words: list[str], cwd: Path, *, mode: int = 0, at: int = -1) -> Ended:
        """Runs `vitrellis WORDS` in a process of its own.

        Args:
            words: The command line.
            cwd: Where it runs; what it does below `runs` is counted.
            mode: What happens, as a number of `shim.c`; 0 is nothing.
            at: The number of the operation.
        """
        output = cwd / "printed.txt"
        arguments = (self.library, words, cwd, output, mode, at)
        process = self.server.Process(target=_command, args=arguments)
        process.start()
        process.join(timeout=_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return Ended(None, output.read_text())
        return Ended(process.exitcode, output.read_text())

    def count(self, words: list[str], cwd: Path) -> int:
        """The number of operations of an undisturbed command."""
        ended = self.run(words, cwd, mode=_COUNT)
        assert ended.code == 0, ended.printed
        return len((cwd / "operations.txt").read_text().splitlines())


def _command(library: Path, words: list[str], cwd: Path, output: Path, mode: int, at: int) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = ["vitrellis", *words]
    if mode:
        below = str((cwd / "runs").resolve()).encode()
        log = str(cwd / "operations.txt").encode()
        ctypes.CDLL(str(library)).faults_set(below, mode, ctypes.c_long(at), log)
    main()


@contextmanager
def loaded_shim(folder: Path) -> Iterator[Shim]:
    """Compiles the shim, and starts processes with it.

    Args:
        folder: The folder of the library.
    """
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "vitrellis.assembly.launch"])
    os.environ["LD_PRELOAD"] = str(library)
    try:
        yield Shim(library, server)
    finally:
        del os.environ["LD_PRELOAD"]


def campaign(shim: Shim, folder: Path, name: str, share: float, seed: int) -> Findings:
    """Disturbs one command at many operations, and finishes each run afterwards.

    The faults take turns over the operations; four seeds in a row meet each operation with each.

    Args:
        shim: The shim.
        folder: An empty folder; the images and the undisturbed runs are kept in it.
        name: Of `COMMANDS`.
        share: The share of the operations.
        seed: Draws them.
    """
    words = [*COMMANDS[name], "--out", "runs/x"]
    again = [word for word in words if word != "--fresh"]
    found = Findings(f"faults at the writes of {name}")
    reference = folder / f"reference-{name}"
    _begin(shim, reference, name)
    count = shim.count(words, reference)
    work = folder / "work"
    for at in share_of(range(count), share, seed):
        fault = [*FAULTS][(at + seed) % len(FAULTS)]
        _begin(shim, work, name)
        ended = shim.run(words, work, mode=FAULTS[fault], at=at)
        operation = (work / "operations.txt").read_text().splitlines()[-1:]
        where = f"{fault} of {name} at {at} of {count} ({' '.join(operation)})"
        wrong = _wrong_end(ended, FAULTS[fault])
        # what is found emptied is begun anew without --fresh; before that, the old run stands
        second = shim.run(words if name == "fresh" and at % 2 else again, work)
        if second.code == 2 and name == "fresh":
            second = shim.run(words, work)
        wrong = wrong or _wrong_result(second, reference, work)
        found.ends[f"{fault}, exit {ended.code}"] += 1
        if wrong:
            found.wrong.append(f"{where}: {wrong}")
    return found


def _begin(shim: Shim, folder: Path, name: str) -> None:
    """The images, and for `fresh` an old run with a file of the user, in an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "runs").mkdir(parents=True)
    write_few_images((FEW_IMAGES,), folder)
    if name != "fresh":
        return
    old = folder.parent / "old"
    if not old.exists():
        old.mkdir()
        write_few_images((FEW_IMAGES,), old)
        ended = shim.run([*ALONE, "seed=5", "--out", "runs/x"], old)
        assert ended.code == 0, ended.printed
        (old / "runs" / "x" / "notes.txt").write_text("mine")
    shutil.copytree(old / "runs", folder / "runs", dirs_exist_ok=True)


def _wrong_end(ended: Ended, fault: int) -> str | None:
    if ended.code is None:
        return "took too long"
    if "Traceback" in ended.printed:
        return f"traceback: {ended.printed.splitlines()[-1]}"
    if fault <= FAULTS["torn write"]:
        return None if ended.code in (0, -signal.SIGKILL) else f"exit code {ended.code}"
    if ended.code not in (0, 1, 2):
        return f"exit code {ended.code}"
    if ended.code and len(re.findall(r"^error: ", ended.printed, re.MULTILINE)) != 1:
        return f"no single message: {ended.printed[-300:]!r}"
    return None


def _wrong_result(ended: Ended, reference: Path, work: Path) -> str | None:
    if ended.code != 0 or "Traceback" in ended.printed:
        return f"the same command ends with {ended.code}: {ended.printed[-300:]!r}"
    run = RunDirectory(work / "runs" / "x")
    try:
        assert_same_weights(reference / "runs" / "x", run.path)
    except AssertionError as error:
        return f"other weights: {str(error)[:200]}"
    bad = [file.detail for file in verify_run(run).files if file.state != "ok"]
    left = [str(file) for file in (work / "runs").rglob("*.*tmp*")]
    notes = run.path / "notes.txt"
    if (reference / "runs" / "x" / "notes.txt").exists() and not notes.exists():
        return "a file of the user is gone"
    return f"damaged or left: {[*bad, *left]}" if bad or left else None
