"""Which trials a sweep asks for, what it tells Optuna of them, and how it goes on after a stop."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments import sweeping
from vitrellis.experiments.jobs import Job, JobPlan, Outcome
from vitrellis.experiments.search_ranges import SearchRange
from vitrellis.experiments.sweeping import SweepResult, sweep
from vitrellis.runs.results import CheckpointFigures, EpochRow, Results
from vitrellis.training.interrupts import Interrupted

OVER = ["optimizer.lr=1e-4..1e-2", "training.batch_size=16,32"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=1e-4..1e-2", SearchRange("optimizer.lr", 1e-4, 1e-2, is_log=True)),
        ("a=0.1..0.3", SearchRange("a", 0.1, 0.3)),
        ("a=0..10", SearchRange("a", 0, 10, is_integer=True)),
        ("a=8..128", SearchRange("a", 8, 128, is_integer=True, is_log=True)),
        ("a=x, y", SearchRange("a", choices=("x", "y"))),
    ],
)
def test_ranges(text: str, expected: SearchRange) -> None:
    assert SearchRange.parse(text) == expected


@pytest.mark.parametrize("text", ["optimizer.lr", "a=", "a=1", "a=1..", "a=2..1", "a=x..y", "a=1,"])
def test_other_words_are_no_ranges(text: str) -> None:
    with pytest.raises(UsageError, match=r"--over .*Use KEY=LOW\.\.HIGH"):
        SearchRange.parse(text)


def row(epoch: int, val_top1: float) -> EpochRow:
    return EpochRow(epoch, 1, 1.0, 0.1, 1.0, 1.0, {}, {}, 0.5, val_top1=val_top1)


def complete(job: Job, values: list[float]) -> Outcome:
    """A training with these validation accuracies."""
    job.run.path.mkdir(parents=True, exist_ok=True)
    for epoch, value in enumerate(values):
        job.run.append_metrics(row(epoch, value))
    best = CheckpointFigures(epoch=values.index(max(values)), val_top1=max(values))
    job.run.write_results(
        Results(
            recipe="r",
            model="m",
            parameters=1,
            seed=0,
            epochs=len(values),
            seconds=1.0,
            images_per_second=None,
            best=best,
            last=best,
        )
    )
    return Outcome(job, "done", 0, "")


def best_at_one_thousandth(job: Job) -> Outcome:
    return complete(job, [0.1, 1 / (1 + abs(job.recipe.optimizer.lr - 1e-3))])


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepResult]:
    """A sweep in which a function stands for each training."""

    def run(
        train: Callable[[Job], Outcome], trials: int = 4, over: list[str] = OVER, **options: str
    ) -> SweepResult:
        def run_jobs(plan: JobPlan, shares: object, *, logs: Path, console: Console) -> None:
            del shares, logs, console
            while job := plan.next_job([]):
                plan.end(train(job))

        monkeypatch.setattr(sweeping, "run_jobs", run_jobs)
        return sweep(
            options.get("recipe", "demo-alone"),
            ["training.epochs=20", "schedule.warmup_epochs=0"],
            [SearchRange.parse(text) for text in over],
            trials=trials,
            jobs=1,
            pruner="median",
            out=tmp_path / "sweep",
            console=Console(file=io.StringIO()),
        )

    return run


def test_the_best_by_validation_is_first(search: Callable[..., SweepResult]) -> None:
    jobs: list[Job] = []

    def train(job: Job) -> Outcome:
        jobs.append(job)
        return best_at_one_thousandth(job)

    result = search(train, trials=6)
    assert [job.run.path.name for job in jobs] == [f"trial00{number}" for number in range(6)]
    assert all(1e-4 <= job.recipe.optimizer.lr <= 1e-2 for job in jobs)
    assert {job.recipe.training.batch_size for job in jobs} <= {16, 32}
    distances = [abs(jobs[trial.number].recipe.optimizer.lr - 1e-3) for trial in result.best]
    assert distances == sorted(distances)
    first = jobs[result.best[0].number].recipe
    assert f"optimizer.lr={first.optimizer.lr:.4g}" in result.best[0].overrides


def test_a_sweep_that_was_stopped_goes_on(search: Callable[..., SweepResult]) -> None:
    seen: list[Job] = []

    def stopped(job: Job) -> Outcome:
        seen.append(job)
        if len(seen) == 3:
            raise Interrupted("stopped")
        return best_at_one_thousandth(job)

    with pytest.raises(Interrupted):
        search(stopped)
    again: list[Job] = []

    def train(job: Job) -> Outcome:
        again.append(job)
        return best_at_one_thousandth(job)

    assert len(search(train).best) == 4
    assert len(again) == 2
    assert (again[0].run, again[0].recipe) == (seen[2].run, seen[2].recipe)
    assert len(search(train, trials=5).best) == 5
    with pytest.raises(UsageError, match="holds the sweep of another recipe"):
        search(train, over=["optimizer.lr=1e-4..1e-3"])


def test_one_that_fails_is_replaced_by_the_next_call(search: Callable[..., SweepResult]) -> None:
    def train(job: Job) -> Outcome:
        if job.run.path.name == "trial001":
            return Outcome(job, "failed", 1, "the loss is nan")
        return best_at_one_thousandth(job)

    result = search(train)
    assert (len(result.best), result.errors) == (3, {"trial 1": "the loss is nan"})
    assert len(search(train).best) == 4


@pytest.mark.parametrize(("exit_code", "count"), [(1, 3), (2, 1)])
def test_a_sweep_in_which_all_fail_ends(
    search: Callable[..., SweepResult], exit_code: int, count: int
) -> None:
    failed: list[Job] = []

    def train(job: Job) -> Outcome:
        failed.append(job)
        return Outcome(job, "failed", exit_code, "no such folder")

    with pytest.raises(VitrellisError, match="no such folder") as error:
        search(train, trials=10)
    assert error.value.exit_code == exit_code
    assert len(failed) == count


def test_wrong_keys_are_refused_before_a_trial(search: Callable[..., SweepResult]) -> None:
    for over, message in (
        (["optimizer.rate=1e-4..1e-2"], "rate"),
        (["optimizer.lr=-1.0..1.0"], r"optimizer\.lr"),
    ):
        with pytest.raises(UsageError, match=message):
            search(best_at_one_thousandth, over=over)


def test_a_trial_that_falls_behind_is_stopped(
    search: Callable[..., SweepResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[sweeping.SweepPlan] = []
    original = sweeping.SweepPlan.next_job

    def next_job(self: sweeping.SweepPlan, running: list[Job]) -> Job | None:
        plans.append(self)
        return original(self, running)

    monkeypatch.setattr(sweeping.SweepPlan, "next_job", next_job)

    def train(job: Job) -> Outcome:
        if job.run.path.name != "trial004":
            return complete(job, [0.5] * 20)
        job.run.path.mkdir(parents=True)
        for epoch in range(20):
            job.run.append_metrics(row(epoch, 0.1))
            if plans[-1].gives_up(job):
                assert epoch < 5
                return Outcome(job, "stopped", 1, "")
        raise AssertionError("was not stopped")

    result = search(train, trials=5)
    assert (result.num_stopped, len(result.best)) == (1, 4)
