"""`vitrellis launch`: what it refuses, the script it writes, and a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import assert_one_error, run_here, vitrellis
from tests.training.command import FEW_IMAGES, assert_same_weights, write_few_images
from vitrellis.cli import cluster_job
from vitrellis.cli.cluster_job import minutes_of
from vitrellis.errors import UsageError


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("8:00:00", 480), ("2-12", 3600), ("1-01:30", 1530), ("0:05:01", 6), ("7:00", 7)],
)
def test_times_have_the_forms_of_slurm(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "-5", "", "1h"])
def test_other_words_are_no_times(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no time\. Use hours:minutes:seconds"):
        minutes_of(text)


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Puts programs that stand for those of Slurm on the PATH, and no others."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!{sys.executable}\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_what_cannot_be_submitted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(
        tmp_path / "bin",
        monkeypatch,
        srun="",
        sinfo="print('cpu* 4'); print('gpu 2'); print('gpu 1')",
        sbatch="import sys; sys.exit('sbatch: error: Invalid account')",
    )
    for words, code, message in (
        (["--time", "0:04:00"], 2, "--time 0:04:00: is 4 minutes, of which the last 2"),
        (["--partition", "gpus"], 2, "unknown partition 'gpus'. Did you mean 'gpu'?"),
        (["--nodes", "5"], 2, "--nodes 5: partition cpu has 4"),
        (["--nodes", "4", "--partition", "gpu"], 2, "--nodes 4: partition gpu has 3"),
        (["--sbatch", "account"], 2, "--sbatch account: should be NAME=VALUE"),
        (["--nodes", "2"], 1, "Slurm refused the job: Invalid account"),
        (["nonsense=1"], 2, "nonsense"),
    ):
        ended = vitrellis("launch", "demo-alone", *words, cwd=tmp_path)
        assert_one_error(ended, code, message)


def test_without_slurm_or_submitit_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch)
    ended = vitrellis("launch", "demo-alone", cwd=tmp_path)
    assert_one_error(ended, 2, "sbatch is not on the PATH")
    monkeypatch.setitem(sys.modules, "submitit", None)
    ended = vitrellis("launch", "demo-alone", "--dry-run", cwd=tmp_path)
    assert_one_error(ended, 2, "pip install 'vitrellis[cluster]'")


def test_the_script_can_be_read_before_it_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch)  # on a laptop, too
    words = ["--nodes", "2", "--gpus", "4", "--time", "1-0", "--partition", "big"]
    words += ["--sbatch", "account=lab7", "--out", "here/run", "--dry-run"]
    lines = run_here("launch", "demo-alone", *words, cwd=tmp_path).out.splitlines()
    wanted = ["job-name=demo-alone", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=1440"]
    wanted += ["partition=big", "signal=USR1@120", "account=lab7", "requeue"]
    for option in wanted:
        assert f"#SBATCH --{option}" in lines
    (srun,) = (line for line in lines if line.startswith("srun"))
    assert f"{tmp_path}/here/slurm/run/%j_%t_log.out" in srun
    assert not (tmp_path / "here").exists()
    told = json.loads(run_here("launch", "demo-alone", *words, "--json", cwd=tmp_path).out)
    assert told["script"].splitlines() == lines[:-2]
    assert told["run"] == str(tmp_path / "here/run")
    assert told["command"] == f"vitrellis train demo-alone --out {tmp_path / 'here/run'}"


def test_a_submitted_job_is_named_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    programs(folder, monkeypatch, srun="", sinfo="", sbatch="print('Submitted batch job 71')")
    words = ["launch", "demo", "teacher.recipe=demo-alone", "--out", "runs/x", "--json", "-q"]
    ended = run_here(*words, cwd=tmp_path)
    assert ended.err == ""
    run = tmp_path / "runs/x"
    log = str(tmp_path / "runs/slurm/x/71_0_log.out")
    assert json.loads(ended.out) == {"job": "71", "run": str(run), "log": log}


@pytest.mark.parametrize(("state", "is_queued"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_job_that_its_user_cancelled_is_not_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, is_queued: bool
) -> None:
    asked_file = str(tmp_path / "asked")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process goes on
    programs(
        tmp_path / "bin",
        monkeypatch,
        squeue=f"print({state!r})",
        scontrol=f"import sys; open({asked_file!r}, 'w').write(' '.join(sys.argv[1:]))",
    )
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for process in ("1", "0"):
        monkeypatch.setenv("SLURM_PROCID", process)
        cluster_job.queue_again()
        asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
        assert asked == ("requeue 17" if is_queued and process == "0" else "")


def wait_for(is_so: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.5)


@pytest.mark.slow
def test_a_job_on_two_nodes_that_is_preempted_ends_with_the_same_weights(
    tmp_path: Path, slurm: None
) -> None:
    del slurm
    words = ["demo-vit-alone", FEW_IMAGES, "data.train_size=64", "training.epochs=40"]
    words += ["model.name=vit_micro_patch7_28", "schedule.warmup_epochs=0", "machine.threads=1"]
    words += ["machine.accelerator=cpu", "training.batch_size=16", "training.eval_every=40"]
    write_few_images(tuple(words), tmp_path)
    options = ["--nodes", "2", "--gpus", "0", "--time", "0:10:00"]
    said = run_here("launch", *words, *options, "--out", "runs/job", cwd=tmp_path).out
    job = said.split()[1]
    folder = tmp_path / "runs" / "job"
    log = tmp_path / "runs" / "slurm" / "job" / f"{job}_0_log.out"

    def has_begun() -> bool:
        metrics = folder / "metrics.jsonl"
        return metrics.exists() and len(metrics.read_text().splitlines()) > 2

    wait_for(has_begun)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait_for((folder / "results.json").exists)
    printed = log.read_text()
    assert "stopped by SIGUSR1 in epoch" in printed
    assert f"job {job} is back in the queue" in printed
    assert "continues in epoch" in printed
    assert "2 x cpu" in printed
    here = [sys.executable, "-m", "vitrellis", "train"]
    ended = subprocess.run(
        [*here, *words, "machine.devices=2", "--out", "runs/undisturbed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "MASTER_ADDR"},
    )
    assert ended.returncode == 0, ended.stderr
    assert_same_weights(folder, tmp_path / "runs" / "undisturbed")
