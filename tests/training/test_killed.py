"""A start, and a start that deletes an earlier run, killed before each change that they make."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.training.command import FEW_IMAGES, TINY, assert_same_weights, run
from tests.training.stopped import begin

WORDS = [*("train", "demo", *TINY, FEW_IMAGES), "training.epochs=1", "data.train_size=null"]
ALONE = ["train", "demo-alone", FEW_IMAGES, "training.epochs=1", "training.batch_size=32"]
ALONE += ["schedule.warmup_epochs=0", "machine.threads=1", "machine.accelerator=cpu"]
ALONE += ["model.name=vit_micro_patch7_28", "data.train_size=null"]


OFFLINE = [*WORDS, "teacher.offline=true"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that nobody disturbed: guided, online and offline, unguided, and of another seed."""
    folder = tmp_path_factory.mktemp("reference")
    run(*WORDS, "--out", "runs/guided", cwd=folder)
    run(*OFFLINE, "--out", "runs/offline", cwd=folder)
    run(*ALONE, "--out", "runs/alone", cwd=folder)
    run(*ALONE, "seed=5", "--out", "runs/other", cwd=folder)
    return folder


def changes(*words: str, cwd: Path) -> list[str]:
    """What the command changes below `runs`, in order."""
    begin(*words, cwd=cwd, kill=(cwd / "runs", None)).finish(code=0)
    return (cwd / "changes.txt").read_text().splitlines()


def kill(*words: str, cwd: Path, at: int | str) -> None:
    """Kills the command before a change; see `Killer`."""
    begin(*words, cwd=cwd, kill=(cwd / "runs", at)).finish(code=-signal.SIGKILL)


def with_an_old_run(reference: Path, folder: Path) -> None:
    """Lays a run of another recipe in the way, with a file of the user in it."""
    shutil.copytree(reference / "runs" / "other", folder / "runs" / "alone", dirs_exist_ok=True)
    (folder / "runs" / "alone" / "notes.txt").write_text("mine")


def check(reference: Path, folder: Path, words: list[str]) -> None:
    """The same command ends with the same bits, whatever a kill left."""
    run(*words, cwd=folder)
    out = Path(words[words.index("--out") + 1])
    assert_same_weights(reference / out, folder / out)
    left = [file for file in (folder / "runs").rglob("*") if file.name.endswith(".tmp")]
    assert not left


def test_the_first_changes_of_a_start(reference: Path, tmp_path: Path) -> None:
    """Among them are the folder, the lock, the marker, the data and the recipe."""
    words = [*ALONE, "--out", "runs/alone"]
    (tmp_path / "runs").mkdir()
    for at in (
        "open alone/.lock",
        "os.rename alone/.vitrellis-run.json.tmp",
        "open alone/.data.json.tmp",
        "os.rename alone/.recipe.yaml.tmp",
    ):  # each on top of what the one before it left
        kill(*words, cwd=tmp_path, at=at)
    files = sorted(path.name for path in (tmp_path / "runs" / "alone").iterdir())
    assert files == [".lock", ".recipe.yaml.tmp", "data.json", "vitrellis-run.json"]
    check(reference, tmp_path, words)


@pytest.mark.parametrize("file", ["data.json", "results.json"])
def test_a_deletion_that_was_killed_is_finished(reference: Path, tmp_path: Path, file: str) -> None:
    with_an_old_run(reference, tmp_path)
    words = [*ALONE, "--out", "runs/alone"]
    kill(*words, "--fresh", cwd=tmp_path, at=f"os.remove alone/{file}")
    message = run("predict", "runs/alone", "x.png", cwd=tmp_path, code=1)
    assert "no run directory" in " ".join(message.split())
    check(reference, tmp_path, words)
    assert (tmp_path / "runs" / "alone" / "notes.txt").read_text() == "mine"


def test_before_the_deletion_nothing_is_lost(reference: Path, tmp_path: Path) -> None:
    with_an_old_run(reference, tmp_path)
    kill(
        *ALONE,
        "--out",
        "runs/alone",
        "--fresh",
        cwd=tmp_path,
        at="os.rename alone/.vitrellis-run.json.tmp",
    )
    said = run(*ALONE, "seed=5", "--out", "runs/alone", cwd=tmp_path)
    assert "complete" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("words", "out"),
    [(ALONE, "alone"), (WORDS, "guided"), (OFFLINE, "offline")],
    ids=["alone", "guided", "offline"],
)
def test_every_change_of_a_run(reference: Path, tmp_path: Path, words: list[str], out: str) -> None:
    words = [*words, "--out", f"runs/{out}"]
    (tmp_path / "runs").mkdir()
    count = len(changes(*words, cwd=tmp_path))
    assert count > 70
    for at in range(count):
        shutil.rmtree(tmp_path / "runs")
        (tmp_path / "runs").mkdir()
        kill(*words, cwd=tmp_path, at=at)
        check(reference, tmp_path, words)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_change_of_a_fresh_start(reference: Path, tmp_path: Path) -> None:
    words = [*ALONE, "--out", "runs/alone"]
    with_an_old_run(reference, tmp_path)
    listed = changes(*words, "--fresh", cwd=tmp_path)
    emptied = listed.index("os.rename alone/.vitrellis-run.json.tmp") + 1
    for at in range(len(listed)):
        shutil.rmtree(tmp_path / "runs")
        with_an_old_run(reference, tmp_path)
        kill(*words, "--fresh", cwd=tmp_path, at=at)
        again = at % 2 == 0 or at < emptied
        check(reference, tmp_path, [*words, "--fresh"] if again else words)
        assert (tmp_path / "runs" / "alone" / "notes.txt").read_text() == "mine"
