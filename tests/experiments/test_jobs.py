"""Trainings side by side, by small programs that stand for `vitrellis train`."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from vitrellis.assembly.run_folder import HoldsAnotherRun
from vitrellis.experiments import jobs
from vitrellis.experiments.jobs import Job, Outcome, run_jobs
from vitrellis.experiments.machine_shares import MachineShare
from vitrellis.recipe import load_recipe, recipe_from
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import CheckpointFigures, Results
from vitrellis.training.interrupts import Interrupted

SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1] + "/saved", "w"), sys.exit(1)))
open(sys.argv[1] + "/begun", "w")
time.sleep(60)
"""
BEGINS_ANOTHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1] + "/child", "w").write(str(child.pid))
open(sys.argv[1] + "/begun", "w")
time.sleep(60)
"""
FAILS = "import sys; print('epoch 1'); print('error: x.jpg: no image\\n  of yours'); sys.exit(1)"
MOVED = f"print('error: {{0}}\\n{HoldsAnotherRun.WAY_OUT}'); raise SystemExit(2)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
REFUSED = "print('srun: error: invalid partition specified: gpu'); exit(1)"
IN_SLURM = "print('error: no image'); print('srun: error: n1: task 0: Exited'); exit(1)"
TOLD = "import os; print('error:', os.environ['OMP_NUM_THREADS'], 'RANK' in os.environ); exit(3)"


class Listed:
    """A plan of jobs in their order."""

    def __init__(self, waiting: Sequence[Job], given_up: str = "") -> None:
        self.waiting = list(waiting)
        self.outcomes: dict[str, Outcome] = {}
        self.most = 0
        self.given_up = given_up

    def next_job(self, running: Sequence[Job]) -> Job | None:
        self.most = max(self.most, len(running) + 1) if self.waiting else self.most
        return self.waiting.pop(0) if self.waiting else None

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.job.name] = outcome

    def num_waiting(self) -> int:
        return len(self.waiting)

    def figures_of(self, job: Job) -> str:
        return f"{job.run.read_results().recipe} 75 %"

    def gives_up(self, job: Job) -> bool:
        return job.name == self.given_up and (job.run.path / "begun").exists()


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The programs that stand for trainings, by the name of the run."""
    texts: dict[str, str] = {}

    def command_of(recipe: Path, run: RunDirectory) -> list[str]:
        assert load_recipe(recipe).training.epochs == 3
        return [sys.executable, "-c", texts[run.path.name], str(run.path)]

    monkeypatch.setattr(jobs, "command_of", command_of)
    return texts


def job(folder: Path, name: str, *, is_complete: bool = False) -> Job:
    recipe = recipe_from({"model": {"name": "vit_micro_patch7_28"}, "training": {"epochs": 3}})
    run = RunDirectory(folder / "seed0" / name)
    run.path.mkdir(parents=True)
    if is_complete:
        best = CheckpointFigures(epoch=1, val_top1=0.75)
        run.write_results(
            Results(
                recipe=name,
                model="m",
                parameters=1,
                seed=0,
                epochs=3,
                seconds=1.0,
                images_per_second=None,
                best=best,
                last=best,
            )
        )
    return Job(name, recipe, run)


def run(plan: Listed, folder: Path, *, num_shares: int = 2, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    with console.capture() as captured:
        run_jobs(plan, [MachineShare(3)] * num_shares, logs=folder / "logs", console=console)
    return captured.get()


@pytest.mark.parametrize("terminal", [False, True])
def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path,
    programs: dict[str, str],
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")  # would make a training wait for others
    kinds = {"bad": FAILS, "good": "", "other": MOVED.format("o"), "gone": KILLED, "told": TOLD}
    kinds |= {"refused": REFUSED, "in-slurm": IN_SLURM}
    programs |= kinds
    plan = Listed([job(tmp_path, name, is_complete=name == "good") for name in kinds])
    printed = run(plan, tmp_path, terminal=terminal)
    ended = {name: (o.state, o.exit_code, o.text) for name, o in plan.outcomes.items()}
    assert ended["bad"] == ("failed", 1, "x.jpg: no image\n  of yours")
    assert ended["good"] == ("done", 0, "good 75 %")
    other = tmp_path / "seed0" / "other"
    assert ended["other"][1:] == (2, f"o\nUse another --out, or delete {other}")
    assert ended["gone"][1] == -signal.SIGKILL
    assert "ended by SIGKILL (perhaps the memory was full)" in ended["gone"][2]
    assert ended["told"][2] == "3 False"
    assert ended["refused"][2] == "Slurm: invalid partition specified: gpu"
    assert ended["in-slurm"][2] == "no image"
    assert plan.most == 2
    for name in kinds:
        assert f"{name}: {'done' if name == 'good' else 'failed'} after 0:0" in printed
    assert (tmp_path / "logs" / "seed0-bad.log").read_text().startswith("epoch 1\n")


def test_ctrl_c_lets_all_save_and_starts_no_other(tmp_path: Path, programs: dict[str, str]) -> None:
    programs |= dict.fromkeys("abc", SAVES)
    waiting = [job(tmp_path, name) for name in "abc"]
    plan = Listed(waiting)

    def press() -> None:
        while not all((each.run.path / "begun").exists() for each in waiting[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(Interrupted, match="stopped by Ctrl-C"):
        run(plan, tmp_path)
    assert [(each.run.path / "saved").exists() for each in waiting] == [True, True, False]
    assert plan.num_waiting() == 1


def test_one_that_is_given_up_is_no_failure(tmp_path: Path, programs: dict[str, str]) -> None:
    programs["a"] = SAVES
    plan = Listed([job(tmp_path, "a")], given_up="a")
    assert "a: stopped" in run(plan, tmp_path)
    assert plan.outcomes["a"].state == "stopped"
    assert (tmp_path / "seed0" / "a" / "saved").exists()


def test_after_an_error_nothing_goes_on(tmp_path: Path, programs: dict[str, str]) -> None:
    class Breaks(Listed):
        def gives_up(self, job: Job) -> bool:
            if (job.run.path / "begun").exists():
                raise RuntimeError("a fault of the plan")
            return False

    programs["a"] = BEGINS_ANOTHER
    with pytest.raises(RuntimeError, match="of the plan"):
        run(Breaks([job(tmp_path, "a")]), tmp_path)
    child = int((tmp_path / "seed0" / "a" / "child").read_text())
    until = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie":
        assert time.monotonic() < until
        time.sleep(0.05)
