"""The training loop.

The images and random numbers of a step depend on the seed, the epoch and the step alone, so that a
run that is resumed from a checkpoint, even in the middle of an epoch, ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule, _FabricOptimizer
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from vitrellis.data.loader import Batch, EvalLoader, TrainLoader
from vitrellis.data.randomness import step_seed
from vitrellis.objectives import Needs
from vitrellis.runs.checkpoints import RunWriter
from vitrellis.runs.results import EpochRow
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.display import Display
from vitrellis.training.divergence import AGREE_EVERY, DivergenceGuard
from vitrellis.training.epoch_sums import EpochSums
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.interrupts import Interrupted, StopRequest, stop_requests
from vitrellis.training.keep_rate import KeepRateSchedule
from vitrellis.training.optimizers import LearningRate, body_lr
from vitrellis.training.portions import Portions
from vitrellis.training.position import TrainingProgress
from vitrellis.training.sam import Gradient
from vitrellis.training.validation import validation_figures
from vitrellis.training.whole_student import WholeStudent


class _Outcome(NamedTuple):
    """The detached results of one part of a batch; see `GuidedStudent.forward`."""

    total: Tensor
    parts: dict[str, Tensor]
    logits: Tensor
    targets: Tensor


class Trainer:
    """Trains a guided student and keeps its run directory up to date.

    Args:
        fabric: Fabric, launched; it decides on devices and precision.
        guided: The student with its objective, on the device, set up by Fabric.
        optimizer: The optimizer of everything that `guided` learns.
        gradient: Computes the gradient that the optimizer applies.
        learning_rate: The learning rate of every step.
        keep_rate: The keep rate of every step, if the student prunes tokens by a schedule.
        loader: The training batches.
        validation: The images that the best epoch is chosen on; with None, none is chosen.
        teachers: The teachers, possibly none.
        ema: The moving average of the student, which is evaluated in its place.
        whole: The copy of a sharded student that is evaluated and exported; None if it is whole.
        writer: Writes the run's files.
        display: Shows the progress.
        seed: The seed of the run.
        epochs: The number of epochs.
        accumulate: The number of parts that a batch is split into.
        clip_grad: The largest norm of the gradient, or None.
        eval_every: Epochs between validations. The last epoch is always validated.
        patience: Epochs without a better one after which training ends early, or None.
        select_by: The figure whose highest value makes an epoch the best one.
        checkpoint_minutes: The least time between two checkpoints that a run resumes from.
        on_epoch_end: Called with the figures of each epoch, after its files are written.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        guided: _FabricModule,
        optimizer: torch.optim.Optimizer,
        gradient: Gradient,
        learning_rate: LearningRate,
        keep_rate: KeepRateSchedule | None,
        loader: TrainLoader,
        validation: EvalLoader | None,
        teachers: Teachers,
        ema: ModelEmaV3 | None,
        whole: WholeStudent | None,
        writer: RunWriter,
        display: Display,
        seed: int,
        epochs: int,
        accumulate: int,
        clip_grad: float | None,
        eval_every: int,
        select_by: Literal["val_top1", "val_balanced"],
        checkpoint_minutes: float,
        patience: int | None = None,
        on_epoch_end: Callable[[EpochRow], object] | None = None,
    ) -> None:
        self.fabric = fabric
        own = guided.module
        assert isinstance(own, GuidedStudent)
        self.student = own.student
        self.objective = own.objective
        self.guided = guided
        wrapped = fabric.setup_optimizers(optimizer)
        assert isinstance(wrapped, _FabricOptimizer)
        self.optimizer = wrapped
        self._whole = whole
        self.gradient = gradient
        self.learning_rate = learning_rate
        self.keep_rate = keep_rate
        self.loader = loader
        self.validation = validation
        self.teachers = teachers
        self.ema = ema
        self.writer = writer
        self.display = display
        self.seed = seed
        self.epochs = epochs
        self.portions = Portions(fabric, self.objective, teachers, accumulate, display.warn)
        self.clip_grad = clip_grad
        self.eval_every = eval_every
        self.patience = patience
        self.on_epoch_end = on_epoch_end
        self.select_by = select_by
        self.checkpoint_minutes = checkpoint_minutes
        self.progress = TrainingProgress()
        self._last_saved = time.monotonic()
        self._sums = EpochSums(fabric)
        self.guard = DivergenceGuard(fabric, own, teachers, ema, optimizer, writer.describe_last)

    @property
    def _updates_done(self) -> int:
        """The optimizer steps of the run with the current one."""
        return self.progress.epoch * self.loader.steps_per_epoch + self.progress.step + 1

    @property
    def averaged_student(self) -> nn.Module | None:
        """The moving average of the student, where one is kept."""
        return None if self.ema is None else self.ema.module

    @property
    def evaluated_model(self) -> nn.Module:
        """The student, or its moving average where one is kept."""
        return self.ema.module if self.ema is not None else self.whole_student()

    def whole_student(self) -> nn.Module:
        """The student, or its copy with the weights of all processes, which all must ask for."""
        return self.student if self._whole is None else self._whole.update(self.student)

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are done, or as many as its patience allows without a better one."""
        done, best = self.progress.epoch, self.progress.best_epoch
        is_late = self.patience is not None and best is not None and done > best + self.patience
        return done >= self.epochs or (is_late and done % self.eval_every == 0)

    def fit(self) -> TrainingProgress:
        """Trains from the current position to the end of the run.

        Raises:
            Interrupted: After SIGTERM or Ctrl-C; a checkpoint was written.
            VitrellisError: When the loss or a weight is not finite, or a file cannot be written.
        """
        with stop_requests() as stop:
            while not self.has_ended:
                self._train_epoch(stop)
                self._end_epoch()
                if not self.has_ended and self._agreed(stop):
                    self.save()
                    self._stop(stop)
        return self.progress

    def _train_epoch(self, stop: StopRequest) -> None:
        progress = self.progress
        epoch = progress.epoch
        needs = self.objective.teacher_needs(epoch)
        self.guided.train()
        started = time.perf_counter()
        with closing(self.loader.epoch(epoch, progress.step)) as batches:
            for batch in self._timed(batches):
                lr = self.learning_rate.set(self.optimizer.optimizer, epoch, progress.step)
                keep_rate = self._prune(epoch, progress.step)
                self.train_step(batch, needs, epoch)
                progress.step += 1
                self.display.advance(epoch, progress.step, batch.size, lr, keep_rate)
                should_save, should_stop = self._agree(stop)
                if should_save or should_stop:
                    progress.seconds += time.perf_counter() - started
                    self.save()
                    if should_stop:
                        self._stop(stop)
                    started = time.perf_counter()
        self.guard.check_losses(epoch)
        progress.seconds += time.perf_counter() - started

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; counts the time that each is waited for."""
        asked = time.perf_counter()
        for batch in batches:
            self.progress.waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def _prune(self, epoch: int, step: int) -> float | None:
        """Sets the keep rate of a step, which evaluation after it has as well.

        Returns:
            The rate; None without a schedule.
        """
        if self.keep_rate is None:
            return None
        models = [self.student]
        models += [each.module for each in (self._whole, self.ema) if each is not None]
        return self.keep_rate.set(models, epoch, step)

    def _seed(self, seed: int) -> None:
        """Seeds dropout and the like; torch.manual_seed walks the stack for GPUs not in use."""
        torch.default_generator.manual_seed(seed)
        device = self.fabric.device
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)

    def train_step(self, batch: Batch, needs: Mapping[str, Needs], epoch: int) -> None:
        """Makes one step of the optimizer.

        Args:
            batch: This process's share of the images.
            needs: The outputs to compute, by the teacher's name.
            epoch: 0-based.
        """
        for outcome in self.gradient(lambda: self._backward(batch, needs, epoch), epoch):
            self._count(outcome)
            self.guard.record(self.progress.step, outcome.total, outcome.parts)
        if self.guard.is_due(self.progress.step):
            self.guard.check_losses(epoch, batch)
        if self.clip_grad is not None:
            self.fabric.clip_gradients(
                self.guided, self.optimizer, max_norm=self.clip_grad, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.end_step(self.student)
        if self.ema is not None:
            self.ema.update(self.student, self._updates_done if self.ema.use_warmup else None)

    def _backward(self, batch: Batch, needs: Mapping[str, Needs], epoch: int) -> list[_Outcome]:
        """Adds the gradient of the batch's loss; a second call adds the same gradient."""
        self._seed(step_seed(self.seed, epoch, self.progress.step, self.fabric.global_rank))
        outcomes = []
        for chunk, inputs, is_last in self.portions(batch, needs, epoch):
            with self.fabric.no_backward_sync(self.guided, enabled=not is_last):
                total, parts, logits = self.guided(chunk.images, inputs)
                # each process and part counts by its images: the mean over the global batch
                share = len(chunk) * self.fabric.world_size / batch.size
                self.fabric.backward(total * share)
            outcomes.append(_Outcome(total.detach(), parts, logits, chunk.targets))
        return outcomes

    def _end_epoch(self) -> None:
        progress = self.progress
        epoch = progress.epoch
        self.guard.check_weights(epoch)
        means = self._sums.means()
        weights = self.objective.weights(epoch)
        parts = {name: means[name] for name in weights if name in means}
        seconds = progress.seconds - progress.seconds_before
        self.objective.end_epoch(epoch, parts)
        row = EpochRow(
            epoch=epoch,
            step=(epoch + 1) * self.loader.steps_per_epoch,
            seconds=progress.seconds,
            lr=body_lr(self.optimizer.optimizer),
            images_per_second=self.loader.images_per_epoch / max(seconds, 1e-9),
            loss=means["loss"],
            parts=parts,
            weights=weights,
            train_top1=means["correct"],
            keep_rate=self._prune(epoch, self.loader.steps_per_epoch - 1),  # no step, if resumed
            waiting=progress.waited / max(seconds, 1e-9),
            **self._validate(epoch),
        )
        progress.epoch, progress.step, progress.seconds_before = epoch + 1, 0, progress.seconds
        progress.waited = 0.0
        self._sums.clear()
        figure = row.val_top1 if self.select_by == "val_top1" else row.val_balanced
        if self.keep_rate is not None and not self.keep_rate.has_ended(epoch):
            figure = None  # the best model is one that prunes as the recipe wants it
        if figure is not None and (progress.best_figure is None or figure > progress.best_figure):
            progress.best_figure, progress.best_epoch = figure, epoch
            progress.best_top1 = row.val_top1
            self.writer.save_best(self.whole_student(), self.averaged_student, self._state())
        self.writer.log(row)
        self.display.epoch(row)
        if self.has_ended or self._save_is_due():
            self.save()
        if self.on_epoch_end is not None:
            with ExitStack() as if_it_raises:
                if self.fabric.world_size == 1:  # all processes save together, and one may raise
                    if_it_raises.callback(self.save)
                self.on_epoch_end(row)
                if_it_raises.pop_all()

    def save(self) -> None:
        """Writes the checkpoint that the run is resumed from.

        Raises:
            VitrellisError: If a loss or a weight is not finite; the file then stays as it was.
        """
        self.guard.check_losses(self.progress.epoch)
        self.guard.check_weights(self.progress.epoch)
        self.writer.save_last(self._state())
        self._last_saved = time.monotonic()

    def resume(self) -> bool:
        """Resumes from the last checkpoint, if there is one.

        Log lines of an earlier attempt about epochs that are still to do are dropped.
        """
        state = self._state()
        is_resumed = self.writer.load_last(state)
        if is_resumed:
            self.guard.check_resumed(self.writer.run.last_checkpoint)
            self.progress = TrainingProgress(**state["progress"])
            self._sums.restore(self.progress.sums)
        if self.progress.epoch > 0:  # a run that is done but for its last model trains no step
            self._prune(self.progress.epoch - 1, self.loader.steps_per_epoch - 1)
        self.writer.forget_epochs(from_epoch=self.progress.epoch)
        return is_resumed

    def _state(self) -> dict[str, Any]:
        """The state that a run is resumed from; schedules and randomness follow from the position.

        It holds the modules and the optimizer themselves, so that loading restores them in place.
        """
        state: dict[str, Any] = {
            "guided": self.guided,
            "optimizer": self.optimizer,
            "progress": asdict(replace(self.progress, sums=self._sums.of_all())),
            "precision": self.fabric.strategy.precision,
        }
        if self.ema is not None:
            state["ema"] = self.ema.module
        drifting = self.teachers.drifting()
        if len(drifting):
            state["teachers"] = drifting
        return state

    def _count(self, outcome: _Outcome) -> None:
        """Adds a part of a batch to the epoch's sums."""
        total, parts, logits, targets = outcome
        num_images = len(targets)
        hits = (logits.argmax(dim=-1) == targets.argmax(dim=-1)).sum()
        counted = {
            "loss": total * num_images,
            "correct": hits,
            "images": torch.full_like(hits, num_images),
        }
        counted |= {name: value * num_images for name, value in parts.items()}
        self._sums.add(counted)

    def _validate(self, epoch: int) -> dict[str, float]:
        """The figures of the validation images; empty without any, or when they are not due."""
        is_due = (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs
        if self.validation is None or not is_due:
            return {}
        return validation_figures(self.fabric, self.evaluated_model, self.validation)

    def _save_is_due(self) -> bool:
        is_due = time.monotonic() - self._last_saved >= 60 * self.checkpoint_minutes
        return bool(self.fabric.broadcast(is_due)) if self.fabric.world_size > 1 else is_due

    def _agree(self, stop: StopRequest) -> tuple[bool, bool]:
        """Whether to save and whether to stop, the same in every process."""
        if self.fabric.world_size > 1 and self.progress.step % AGREE_EVERY:
            return False, False
        return self._save_is_due(), self._agreed(stop)

    def _agreed(self, stop: StopRequest) -> bool:
        return self.guard.any_process(bool(stop))

    def _stop(self, stop: StopRequest) -> None:
        raise Interrupted(
            f"stopped by {stop.signal_name or 'another process'} in epoch "
            f"{self.progress.epoch + 1} of {self.epochs}, after step {self.progress.step} of "
            f"{self.loader.steps_per_epoch}. "
            f"Saved: {self.writer.describe_last()}. The same command continues from there"
        )
