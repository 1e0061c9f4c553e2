"""The student and its objective as one module.

They are one module so that everything that learns (the projections of a guidance term, too) is
optimised, clipped, synchronised over devices and checkpointed together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vitrellis.models import tapped_forward
from vitrellis.models.support.frozen import keep_frozen_norms
from vitrellis.objectives import Objective, Signals, TeacherOutput, silent_terms


class StepInputs:
    """The inputs of the loss besides the images.

    It is no dataclass, because Fabric would cast the fields of one to half precision.

    Attributes:
        targets: The class probabilities, `(B, K)`.
        teacher_outputs: The output of each teacher, by its name.
        second_view: The images, augmented anew, `(B, C, H, W)`; None if no term needs them.
        epoch: The number of the epoch, 0-based.
        factors: The factors of the values of terms, by name; see `Objective.forward`.
        silent: If it is not None, the forward pass puts the terms in it that teach the student
            nothing; see `silent_terms`.
    """

    __slots__ = ("epoch", "factors", "second_view", "silent", "targets", "teacher_outputs")

    def __init__(
        self,
        targets: Tensor,
        epoch: int,
        teacher_outputs: Mapping[str, TeacherOutput] | None = None,
        second_view: Tensor | None = None,
        factors: Mapping[str, Tensor] | None = None,
        silent: dict[str, str] | None = None,
    ) -> None:
        self.targets = targets
        self.epoch = epoch
        self.teacher_outputs = teacher_outputs or {}
        self.second_view = second_view
        self.factors = factors
        self.silent = silent


class GuidedStudent(nn.Module):
    """A student and the objective that it is trained with.

    Args:
        student: Any model that `forward_with_maps` can tap.
        objective: The weighted sum of terms.
        compiled: Whether to compile the student's forward pass.
    """

    def __init__(self, student: nn.Module, objective: Objective, *, compiled: bool = False) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self._forward_with_maps = tapped_forward(compiled=compiled)

    def train(self, mode: bool = True) -> GuidedStudent:
        """Sets the mode, but for batch norms that are frozen: they keep their statistics."""
        super().train(mode)
        keep_frozen_norms(self.student)
        return self

    def forward(
        self, images: Tensor, inputs: StepInputs
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of a batch.

        Args:
            images: The augmented images, `(B, C, H, W)`.
            inputs: The targets and the outputs of the teachers.

        Returns:
            The weighted sum, a scalar; the detached unweighted terms by name; the detached class
            logits, `(B, K)`.
        """
        blocks = self.objective.needs(inputs.epoch).student_blocks
        logits, maps = self._forward_with_maps(self.student, images, blocks)
        class_logits, distillation_logits = logits if isinstance(logits, tuple) else (logits, None)
        if inputs.silent is not None:
            maps = [block_map.view_as(block_map) for block_map in maps]  # none leads to another
        signals = Signals(
            logits=class_logits,
            distillation_logits=distillation_logits,
            targets=inputs.targets,
            student_maps=dict(zip(blocks, maps, strict=True)),
            teacher_outputs=inputs.teacher_outputs,
            second_view=inputs.second_view,
            epoch=inputs.epoch,
        )
        value = self.objective(signals, inputs.epoch, inputs.factors)
        if inputs.silent is not None:
            heads = [class_logits] if distillation_logits is None else list(logits)
            trained = [output for output in (*heads, *maps) if output.requires_grad]
            inputs.silent |= silent_terms(value.weighted, trained)
        return value.total, value.parts, class_logits.detach()
