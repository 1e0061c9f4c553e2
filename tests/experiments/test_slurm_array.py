"""Job arrays, by small programs that stand for Slurm's; a real Slurm is in `tests/cli`."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.experiments.test_jobs import FAILS, SAVES, Listed, job, programs
from vitrellis.experiments import slurm_array
from vitrellis.experiments.jobs import run_jobs
from vitrellis.experiments.slurm_array import SlurmQueue
from vitrellis.training.interrupts import Interrupted

__all__ = ["programs"]  # a fixture

SBATCH = """
case "$*" in *nosuch*) echo "sbatch: error: invalid partition specified: nosuch" >&2; exit 1;; esac
echo "$*" >>"$FAKE/calls"
cat >"$FAKE/script"
last=$(echo "$*" | sed 's/.*--array=0-//')
for n in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$n setsid bash "$FAKE/script" >/dev/null 2>&1 &
    echo $! >"$FAKE/7_$n.pid"
done
echo 7
"""
SQUEUE = """
for file in "$FAKE"/*.pid; do
    kill -0 "$(cat "$file")" 2>/dev/null && basename "$file" .pid
done
exit 0
"""
SCANCEL = """
case "$1" in
    --state=PENDING) exit 0;;
    --signal=TERM) pkill -TERM -g "$(cat "$FAKE/$2.pid")" python;;
    *) kill -KILL -- "-$(cat "$FAKE/$1.pid")";;
esac
"""
SRUN = 'while [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n'
WAITS = "import sys, time; open(sys.argv[1] + '/begun', 'a').write('x'); time.sleep(3)"


@pytest.fixture(autouse=True)
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with programs that stand for Slurm's; it has what they were told."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": SRUN}
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setattr(slurm_array, "_SECONDS_BETWEEN_CALLS", 0.0)
    monkeypatch.setattr(slurm_array, "_SECONDS_FOR_THE_FILE", 0.5)
    yield folder
    for file in folder.glob("*.pid"):
        with_its_children = -int(file.read_text())
        try:
            os.kill(with_its_children, signal.SIGKILL)
        except ProcessLookupError:
            continue


def run(plan: Listed, folder: Path, options: str = "--gpus=1") -> None:
    slots = [SlurmQueue.parse(options)] * 3
    run_jobs(plan, slots, logs=folder / "logs", console=Console(file=io.StringIO()))


def test_what_is_ready_is_one_array_with_all_options(
    tmp_path: Path, fake_slurm: Path, programs: dict[str, str]
) -> None:
    programs |= {"good": "", "bad": FAILS}
    plan = Listed([job(tmp_path, name, is_complete=name == "good") for name in programs])
    run(plan, tmp_path, "--gpus=1 '--comment=a b'")
    ended = {name: (o.state, o.exit_code, o.text) for name, o in plan.outcomes.items()}
    assert ended["good"] == ("done", 0, "good 75 %")
    assert ended["bad"] == ("failed", 1, "x.jpg: no image\n  of yours")
    (call,) = (fake_slurm / "calls").read_text().splitlines()
    assert call.endswith("--gpus=1 --comment=a b --array=0-1")
    assert not list((tmp_path / "logs").glob("*.job"))


def test_names_are_no_words_of_the_shell(tmp_path: Path, programs: dict[str, str]) -> None:
    hostile = tmp_path / "a $(touch executed) ; touch 'executed'"
    programs |= {"good": ""}
    plan = Listed([job(hostile, "good", is_complete=True)])
    slots = [SlurmQueue.parse("")]
    run_jobs(plan, slots, logs=hostile / "logs", console=Console(file=io.StringIO()))
    assert plan.outcomes["good"].state == "done"
    assert not list(tmp_path.rglob("executed"))


def test_what_sbatch_refuses_fails_with_its_words(tmp_path: Path, programs: dict[str, str]) -> None:
    programs["any"] = ""
    plan = Listed([job(tmp_path, "any")])
    run(plan, tmp_path, "--partition=nosuch")
    assert plan.outcomes["any"].state == "failed"
    assert plan.outcomes["any"].text == "Slurm: invalid partition specified: nosuch"


def test_a_task_that_is_killed_with_its_machine_is_noticed(
    tmp_path: Path, fake_slurm: Path, programs: dict[str, str]
) -> None:
    programs["gone"] = WAITS.replace("sleep(3)", "sleep(60)")
    plan = Listed([job(tmp_path, "gone")])

    def kill() -> None:
        while not (tmp_path / "seed0/gone/begun").exists():
            time.sleep(0.05)
        os.kill(-int((fake_slurm / "7_0.pid").read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    run(plan, tmp_path)
    assert plan.outcomes["gone"].exit_code == -signal.SIGKILL


def test_the_same_command_finds_what_goes_on_without_it(
    tmp_path: Path, fake_slurm: Path, programs: dict[str, str]
) -> None:
    """Its first process was lost with its terminal."""
    programs["long"] = WAITS
    first = job(tmp_path, "long", is_complete=True)
    log = tmp_path / "logs" / "seed0-long.log"
    log.parent.mkdir()
    queue = SlurmQueue.parse("")
    training = queue.start([sys.executable, "-c", WAITS, str(first.run.path)], log)
    assert training.exit_code() is None
    plan = Listed([first])
    run(plan, tmp_path)
    assert plan.outcomes["long"].state == "done"
    assert (first.run.path / "begun").read_text() == "x"  # once
    assert len((fake_slurm / "calls").read_text().splitlines()) == 1


def test_a_stop_lets_them_save(tmp_path: Path, programs: dict[str, str]) -> None:
    programs["saves"] = SAVES
    plan = Listed([job(tmp_path, "saves")])

    def stop() -> None:
        while not (tmp_path / "seed0/saves/begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted, match="the same command continues them"):
        run(plan, tmp_path)
    assert (tmp_path / "seed0/saves/saved").exists()
