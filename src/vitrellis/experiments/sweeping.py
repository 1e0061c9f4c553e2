"""A search for the settings with which a recipe is best on the validation images, by Optuna.

Test images choose nothing, and no figure of theirs is shown. The study is a file beside the trials,
so that the same command continues it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.experiments.comparison_plan import untrained_teachers
from vitrellis.experiments.jobs import Job, Outcome, run_jobs
from vitrellis.experiments.machine_shares import machine_shares
from vitrellis.experiments.search_ranges import SearchRange
from vitrellis.experiments.slots import Slot
from vitrellis.recipe import Recipe, digest, identity, load_recipe
from vitrellis.runs.directory import RunDirectory

if TYPE_CHECKING:
    import optuna

_GIVE_UP_AFTER = 3
"""The number of failures after which a sweep ends if no trial has succeeded."""

Pruner = Literal["median", "hyperband", "none"]


@dataclass(frozen=True)
class TrialResult:
    """A trial that is complete.

    Attributes:
        number: Its number, from 0.
        value: The validation figure of its best epoch, as a fraction.
        overrides: The changes to the recipe.
        run: Its run directory.
    """

    number: int
    value: float
    overrides: tuple[str, ...]
    run: Path


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has found.

    Attributes:
        figure: The validation figure that was maximised, "val_top1" or "val_balanced".
        best: The complete trials, the best first.
        num_stopped: The number of trials that were stopped early.
        errors: The errors of trials that failed, by the name of the trial.
    """

    figure: str
    best: list[TrialResult]
    num_stopped: int
    errors: dict[str, str]


def sweep(
    recipe: str,
    overrides: Sequence[str],
    ranges: Sequence[SearchRange],
    *,
    trials: int,
    jobs: int,
    slots: Sequence[Slot] | None = None,
    pruner: Pruner,
    out: Path,
    console: Console,
) -> SweepResult:
    """Trains a recipe with many settings; the sampler is Optuna's TPE.

    Args:
        recipe: The recipe's name or path.
        overrides: Changes that all trials have.
        ranges: What is tried.
        trials: The number of trials, with those of earlier calls.
        jobs: The number of trials at the same time.
        slots: Where they run; by default on this machine.
        pruner: How trials are stopped early that are worse than others were at that epoch.
        out: The folder for the study and its runs.
        console: Shows the progress.

    Raises:
        UsageError: If Optuna is missing, a recipe is wrong at an end of a range, there are no
            validation images, or the folder holds another sweep.
        VitrellisError: If no trial could be completed.
        Interrupted: After SIGTERM or Ctrl-C; the same call continues.
    """
    base = load_recipe(recipe, overrides)
    for each in ranges:
        for end in each.ends():
            load_recipe(recipe, [*overrides, f"{each.key}={end}"])
    study = _open_study(out, base, ranges, pruner, is_parallel=jobs > 1)
    plan = SweepPlan(study, recipe, overrides, ranges, trials, out)
    places = machine_shares(jobs, [base]) if slots is None else slots
    run_jobs(plan, places, logs=out / "logs", console=console)
    if plan.end_of_all is not None:
        raise plan.end_of_all
    result = plan.result()
    if not result.best:
        raise VitrellisError(f"{out}: no trial was completed. Use more --trials, or --pruner none")
    return result


def _open_study(
    out: Path, base: Recipe, ranges: Sequence[SearchRange], pruner: Pruner, *, is_parallel: bool
) -> optuna.Study:
    library = _optuna()
    out.mkdir(parents=True, exist_ok=True)
    path = (out / "study.db").resolve()
    pruners = {
        "median": library.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        "hyperband": library.pruners.HyperbandPruner(max_resource=base.training.epochs),
        "none": library.pruners.NopPruner(),
    }
    study: optuna.Study = library.create_study(
        study_name=out.name,
        storage=f"sqlite:///{path}",
        direction="maximize",
        load_if_exists=True,
        pruner=pruners[pruner],
    )
    # each call draws other numbers than those before; trials at the same time differ
    study.sampler = library.samplers.TPESampler(
        seed=base.seed + len(study.trials), constant_liar=is_parallel
    )
    named = digest({"recipe": identity(base), "over": sorted(map(str, ranges))})
    before = study.user_attrs.get("vitrellis")
    if before is None:
        study.set_user_attr("vitrellis", named)
    elif before != named:
        raise UsageError(
            f"{out}: holds the sweep of another recipe, or over other values. Use another --out"
        )
    return study


class SweepPlan:
    """Asks Optuna for the settings of the next trial, and tells it how each went.

    Args:
        study: The study; trials in it that were interrupted are continued first.
        recipe: The recipe's name or path.
        overrides: Changes that all trials have.
        ranges: What is tried.
        trials: The number of trials, with those that the study has.
        out: The folder of the runs.
    """

    def __init__(
        self,
        study: optuna.Study,
        recipe: str,
        overrides: Sequence[str],
        ranges: Sequence[SearchRange],
        trials: int,
        out: Path,
    ) -> None:
        self.end_of_all: VitrellisError | None = None
        self._study = study
        self._recipe = recipe
        self._overrides = list(overrides)
        self._ranges = ranges
        self._num_trials = trials
        self._out = out
        self._trials: dict[str, optuna.Trial] = {}
        self._reported: dict[str, int] = {}
        self._ready: list[Job] = []
        self._errors: list[str] = []
        self._has_succeeded = False
        state = _optuna().trial.TrialState
        for frozen in study.get_trials(states=[state.RUNNING]):
            trial = _optuna().trial.Trial(study, frozen._trial_id)
            self._ready.append(self._job(trial))
            self._reported[self._ready[-1].name] = len(frozen.intermediate_values)
        self._failed_before = len(study.get_trials(states=[state.FAIL]))
        by = load_recipe(recipe, overrides).training.select_by
        self.figure = "val_top1" if by == "top1" else "val_balanced"

    def _job(self, trial: optuna.Trial) -> Job:
        changes = [f"{each.key}={each.suggest(trial)}" for each in self._ranges]
        trial.set_user_attr("overrides", changes)
        name = f"trial {trial.number}: {' '.join(changes)}"
        self._trials[name] = trial
        self._reported.setdefault(name, 0)
        recipe = load_recipe(self._recipe, [*self._overrides, *changes])
        return Job(name, recipe, RunDirectory(self._out / f"trial{trial.number:03}"))

    def num_waiting(self) -> int:
        """The number of trials that are still to be started."""
        return max(0, self._num_trials - self._num_begun() + len(self._ready))

    def _num_begun(self) -> int:
        """The trials so far. Those that failed in earlier calls are replaced by others."""
        return len(self._study.trials) - self._failed_before

    def next_job(self, running: Sequence[Job]) -> Job | None:
        """The next trial; None if all are begun, or its teacher is being trained by another."""
        if self.end_of_all is not None:
            return None
        if not self._ready and self._num_begun() < self._num_trials:
            self._ready.append(self._job(self._study.ask()))
        in_progress = {teacher for job in running for teacher in untrained_teachers(job)}
        if not self._ready or not in_progress.isdisjoint(untrained_teachers(self._ready[0])):
            return None
        return self._ready.pop(0)

    def gives_up(self, job: Job) -> bool:
        """Tells Optuna the figures of new epochs; whether it stops the trial for them."""
        trial = self._trials[job.name]
        rows = job.run.read_metrics()
        for row in rows[self._reported[job.name] :]:
            value = getattr(row, self.figure)
            if value is not None:
                trial.report(value, row.epoch)
        has_news = len(rows) > self._reported[job.name]
        self._reported[job.name] = len(rows)
        is_last = len(rows) == job.recipe.training.epochs
        return has_news and not is_last and trial.should_prune()

    def end(self, outcome: Outcome) -> None:
        """Tells Optuna how a trial ended."""
        state = _optuna().trial.TrialState
        trial, job = self._trials[outcome.job.name], outcome.job
        if outcome.state == "done":
            self.gives_up(job)  # reports the last epochs
            value = self._value(job)
            if value is None:
                self.end_of_all = UsageError(f"{job.recipe.name}: {_NO_VALIDATION}")
                self._study.tell(trial, state=state.FAIL)
            else:
                self._has_succeeded = True
                self._study.tell(trial, value)
        elif outcome.state == "stopped":
            self._has_succeeded = True
            self._study.tell(trial, state=state.PRUNED)
        else:
            trial.set_user_attr("error", outcome.text)
            self._study.tell(trial, state=state.FAIL)
            self._errors.append(outcome.text)
            if outcome.exit_code == UsageError.exit_code:
                self.end_of_all = UsageError(outcome.text)
            elif not self._has_succeeded and len(self._errors) >= _GIVE_UP_AFTER:
                self.end_of_all = VitrellisError(
                    f"{self._out}: the first {len(self._errors)} trials failed, so no more are "
                    f"begun. The first: {self._errors[0]}"
                )

    def figures_of(self, job: Job) -> str:
        """The validation figure of a trial that is done."""
        value = self._value(job)
        return "" if value is None else f"{self.figure} {100 * value:.2f} %"

    def result(self) -> SweepResult:
        """The complete trials, the best first."""
        state = _optuna().trial.TrialState
        done = self._study.get_trials(states=[state.COMPLETE])
        failed = self._study.get_trials(states=[state.FAIL])
        best = [
            TrialResult(
                trial.number,
                trial.value or 0.0,
                tuple(trial.user_attrs["overrides"]),
                self._out / f"trial{trial.number:03}",
            )
            for trial in sorted(done, key=lambda trial: -(trial.value or 0.0))
        ]
        errors = {f"trial {each.number}": each.user_attrs.get("error", "") for each in failed}
        num_stopped = len(self._study.get_trials(states=[state.PRUNED]))
        return SweepResult(self.figure, best, num_stopped, errors)

    def _value(self, job: Job) -> float | None:
        """The validation figure of the best epoch."""
        best = job.run.read_results().best
        value: float | None = getattr(best, self.figure)
        return value


_NO_VALIDATION = "has no validation images, by which a sweep chooses. Set data.val_fraction"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "sweep: needs Optuna. Install it with: pip install 'vitrellis[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
