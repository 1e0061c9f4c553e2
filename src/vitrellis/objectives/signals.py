"""What the terms of an objective see, and what they may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor


class Taught(NamedTuple):
    """What one teacher says of a batch.

    Attributes:
        logits: `(B, K)`, None where no term needs them.
        maps: Block index to `(B, C, H, W)`.
    """

    logits: Tensor | None
    maps: Mapping[int, Tensor]


@dataclass(frozen=True)
class Signals:
    """One batch, as the terms of an objective see it.

    Attributes:
        logits: `(B, K)` of the student's classifier.
        targets: `(B, K)` class probabilities, one-hot or mixed, without label smoothing.
        distillation_logits: `(B, K)` of the student's distillation head, None where it has none.
        student_maps: Block index to `(B, C, H, W)`.
        teacher_logits: `(B, K)` of the teacher of the term that looks, None where it needs none.
        teacher_maps: Of the same, block index to `(B, C, H, W)`.
        second_view: `(B, C, H, W)` images, varied once more; None where no term needs them.
        epoch: 0-based.
        taught: All teachers by name, where there are several.
    """

    logits: Tensor
    targets: Tensor
    distillation_logits: Tensor | None = None
    student_maps: Mapping[int, Tensor] = field(default_factory=dict)
    teacher_logits: Tensor | None = None
    teacher_maps: Mapping[int, Tensor] = field(default_factory=dict)
    second_view: Tensor | None = None
    epoch: int = 0
    taught: Mapping[str, Taught] = field(default_factory=dict)

    def of_teacher(self, name: str) -> Signals:
        """As a term sees them that learns from the teacher of this name."""
        if name not in self.taught:
            return self
        logits, maps = self.taught[name]
        return replace(self, teacher_logits=logits, teacher_maps=maps)


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
