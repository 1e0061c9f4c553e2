"""What the terms of an objective see, and what they may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Signals:
    """One batch, as the terms of an objective see it.

    Attributes:
        logits: `(B, K)` of the student's classifier.
        targets: `(B, K)` class probabilities, one-hot or mixed, without label smoothing.
        distillation_logits: `(B, K)` of the student's distillation head, None where it has none.
        student_maps: Block index to `(B, C, H, W)`.
        teacher_logits: `(B, K)`, None where no term needs them.
        teacher_maps: Block index to `(B, C, H, W)`.
        second_view: `(B, C, H, W)` images, varied once more; None where no term needs them.
        epoch: 0-based.
    """

    logits: Tensor
    targets: Tensor
    distillation_logits: Tensor | None = None
    student_maps: Mapping[int, Tensor] = field(default_factory=dict)
    teacher_logits: Tensor | None = None
    teacher_maps: Mapping[int, Tensor] = field(default_factory=dict)
    second_view: Tensor | None = None
    epoch: int = 0


@dataclass(frozen=True)
class Needs:
    """What has to be computed for a term beside the student's logits. `a | b` is the union.

    Attributes:
        student_blocks: Blocks of the student whose maps are needed.
        teacher_blocks: Blocks of the teacher whose maps are needed.
        teacher_logits: Whether the teacher's logits are needed.
    """

    student_blocks: tuple[int, ...] = ()
    teacher_blocks: tuple[int, ...] = ()
    teacher_logits: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            student_blocks=_union(self.student_blocks, other.student_blocks),
            teacher_blocks=_union(self.teacher_blocks, other.teacher_blocks),
            teacher_logits=self.teacher_logits or other.teacher_logits,
        )


def _union(first: Iterable[int], second: Iterable[int]) -> tuple[int, ...]:
    """Each block once, in ascending order."""
    return tuple(sorted({*first, *second}))
