"""Notices a run that has diverged, before it is scored or saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.optim import Optimizer

from vitrellis.data.loader import Batch
from vitrellis.errors import VitrellisError
from vitrellis.models import non_finite_tensor, origin_of_non_finite
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import GuidedStudent

CHECK_EVERY = 25
"""The number of steps between two checks of the loss on an accelerator, as each waits for it."""
AGREE_EVERY = 10
"""The number of steps between two agreements of several processes on the CPU."""

CURE = "A lower optimizer.lr, training.clip_grad=1 or training.precision=32-true may help"


class _Loss(NamedTuple):
    """The loss of a part of a batch: the step, the weighted sum, and the unweighted terms."""

    step: int
    total: Tensor
    parts: dict[str, Tensor]


class DivergenceGuard:
    """Refuses losses, weights and running statistics that are not finite.

    All processes raise the error together, so that none waits for one that has ended.

    Args:
        fabric: Fabric, launched.
        guided: The student with its objective.
        teachers: The teachers.
        ema: The moving average of the student, if there is one.
        optimizer: The optimizer, whose moments are saved.
        last_checkpoint: Describes the last checkpoint for a message.
    """

    def __init__(
        self,
        fabric: Fabric,
        guided: GuidedStudent,
        teachers: Teachers,
        ema: ModelEmaV3 | None,
        optimizer: Optimizer,
        last_checkpoint: Callable[[], str],
    ) -> None:
        self.fabric = fabric
        self.guided = guided
        self.teachers = teachers
        self.ema = ema
        self.optimizer = optimizer
        self.last_checkpoint = last_checkpoint
        self._recent: list[_Loss] = []

    def record(self, step: int, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Remembers a loss until the next check, without waiting for the device.

        Args:
            step: The number of the step in its epoch, 0-based.
            total: The weighted sum, a scalar.
            parts: The unweighted terms, scalars.
        """
        self._recent.append(_Loss(step, total, parts))

    def is_due(self, step: int) -> bool:
        """Whether losses are checked in this step, 0-based; the same in every process."""
        interval = 1 if self.fabric.world_size == 1 else AGREE_EVERY
        if self.fabric.device.type != "cpu":
            interval = CHECK_EVERY
        return (step + 1) % interval == 0

    def check_losses(self, epoch: int, batch: Batch | None = None) -> None:
        """Checks the losses since the last check.

        Args:
            epoch: The number of the epoch, 0-based.
            batch: The last batch, to find the place in the model; None if it is gone.

        Raises:
            VitrellisError: Naming the step, the term, the first tensor that is not finite and the
                last good checkpoint.
        """
        recent, self._recent = self._recent, []
        values = [value.float() for loss in recent for value in (loss.total, *loss.parts.values())]
        is_good = not values or bool(torch.stack(values).isfinite().all())
        if not self.any_process(not is_good):
            return
        bad = (loss for loss in recent if any(not v.isfinite() for v in _values(loss)))
        raise self._shared(VitrellisError(self._about_loss(next(bad, None), epoch, batch)), is_good)

    def check_weights(self, epoch: int) -> None:
        """Checks all that is saved: weights, running statistics, averages, optimizer moments.

        Args:
            epoch: The number of the epoch, 0-based.

        Raises:
            VitrellisError: Naming the first tensor that is not finite.
        """
        tensor = next(self._bad_tensors(), None)
        if not self.any_process(tensor is not None):
            return
        where = " in another process" if tensor is None else f": {tensor} is not finite"
        error = VitrellisError(
            f"the model has diverged in epoch {epoch + 1}{where}. Nothing was saved since; last "
            f"good checkpoint: {self.last_checkpoint()}. {CURE}"
        )
        raise self._shared(error, tensor is None)

    def check_resumed(self, path: Path) -> None:
        """Refuses a checkpoint that holds NaN or infinity, after it was loaded.

        Args:
            path: The file, for the message.

        Raises:
            VitrellisError: Naming the file and the first tensor that is not finite.
        """
        tensor = next(self._bad_tensors(), None)
        if tensor is not None:
            raise VitrellisError(
                f"{path}: {tensor} is not finite, so it cannot be continued from. Delete it to "
                "start again, or put best.ckpt in its place"
            )

    def any_process(self, is_so: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        if self.fabric.world_size == 1:
            return is_so
        asked = torch.tensor(float(is_so), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") > 0)  # type: ignore[operator]

    def _shared(self, error: VitrellisError, is_from_elsewhere: bool) -> VitrellisError:
        """The error, marked as shared if the first process can say what is wrong."""
        if self.fabric.world_size > 1:
            error.is_shared = not self.fabric.broadcast(is_from_elsewhere, src=0)
        return error

    def _about_loss(self, loss: _Loss | None, epoch: int, batch: Batch | None) -> str:
        end = f"Last good checkpoint: {self.last_checkpoint()}. {CURE}"
        if loss is None:
            return f"the loss of another process is not finite in epoch {epoch + 1}. {end}"
        terms = [name for name, value in loss.parts.items() if not value.isfinite()]
        listed = ", ".join(f"{name} {value.item():.4g}" for name, value in loss.parts.items())
        origin = self._origin(batch)
        return (
            f"the loss is {loss.total.item()} in epoch {epoch + 1}, step {loss.step + 1}: "
            f"{'term ' + ', '.join(terms) if terms else 'the weighted sum'} is not finite "
            f"({listed}){origin}. {end}"
        )

    def _origin(self, batch: Batch | None) -> str:
        """The first tensor that is not finite, of the student or else of a teacher."""
        models = {"the student": (self.guided.student, None if batch is None else batch.images)}
        for name, teacher in self.teachers.items():
            seen = None if batch is None else teacher.view(batch.images)
            models[name] = (teacher.model, seen)
        for name, (model, images) in models.items():
            if images is None:
                tensor = non_finite_tensor(model.state_dict())
                found = None if tensor is None else f"its weight {tensor}"
            else:
                with self.fabric.autocast():
                    found = origin_of_non_finite(model, images)
            if found is not None:
                return f"; of {name}: {found} is not finite"
        return "; all weights and all outputs of the student are finite" if batch else ""

    def _bad_tensors(self) -> Iterator[str]:
        """Each tensor that is not finite among all that is saved, with its owner."""
        owned = {
            "the student": self.guided.student.state_dict(),
            "the objective": self.guided.objective.state_dict(),
        }
        if self.ema is not None:
            owned["the moving average"] = self.ema.module.state_dict()
        owned |= {
            f"the drifting {name}": model.state_dict()
            for name, model in self.teachers.drifting().items()
        }
        owned["the optimizer"] = {
            f"{moment} of {name}": value
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            for moment, value in self.optimizer.state.get(parameter, {}).items()
        }
        for owner, state in owned.items():
            tensor = non_finite_tensor(state)
            if tensor is not None:
                yield f"{tensor} of {owner}"


def _values(loss: _Loss) -> list[Tensor]:
    return [loss.total, *loss.parts.values()]
