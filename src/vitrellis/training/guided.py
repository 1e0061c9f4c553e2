"""The student and its objective as one module.

They are one module so that everything that learns (the projections of a guidance term, too) is
optimised, clipped, synchronised over devices and checkpointed together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vitrellis.models import tapped_forward
from vitrellis.objectives import Objective, Signals, TeacherOutput


class StepInputs:
    """The inputs of the loss besides the images.

    It is no dataclass, because Fabric would cast the fields of one to half precision.

    Attributes:
        targets: The class probabilities, `(B, K)`.
        teacher_outputs: The output of each teacher, by its name.
        second_view: The images, augmented anew, `(B, C, H, W)`; None if no term needs them.
        epoch: The number of the epoch, 0-based.
    """

    __slots__ = ("epoch", "second_view", "targets", "teacher_outputs")

    def __init__(
        self,
        targets: Tensor,
        epoch: int,
        teacher_outputs: Mapping[str, TeacherOutput] | None = None,
        second_view: Tensor | None = None,
    ) -> None:
        self.targets = targets
        self.epoch = epoch
        self.teacher_outputs = teacher_outputs or {}
        self.second_view = second_view


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
        signals = Signals(
            logits=class_logits,
            distillation_logits=distillation_logits,
            targets=inputs.targets,
            student_maps=dict(zip(blocks, maps, strict=True)),
            teacher_outputs=inputs.teacher_outputs,
            second_view=inputs.second_view,
            epoch=inputs.epoch,
        )
        value = self.objective(signals, inputs.epoch)
        return value.total, value.parts, class_logits.detach()
