"""The student and its objective as one module.

Student and objective are one module so that everything that learns (the projections of a guidance
term, too) is optimised, clipped, synchronised over devices and checkpointed together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vitrellis.models import tapped_forward
from vitrellis.objectives import Objective, Signals, TeacherOutput


class StepInputs:
    """What one step is judged by. Not a dataclass: Fabric would cast its fields to half precision.

    Attributes:
        targets: `(B, K)` class probabilities.
        teacher_outputs: What each teacher says, by its name.
        second_view: `(B, C, H, W)` images, varied once more; None where no term needs them.
        epoch: 0-based.
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
        compiled: Compile the student's forward pass.
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
            images: `(B, C, H, W)`.
            inputs: Targets and what the teachers say.

        Returns:
            The weighted sum, scalar; the detached unweighted terms by name; the class logits
            `(B, K)`, detached.
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
