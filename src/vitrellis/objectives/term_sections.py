"""A term in a recipe: the base of its section, and the parts of a run that it may be built from.

Every term that a recipe can name has a section in its own file: the settings with their defaults
and ranges, what the term needs, and `build`, which makes the term. `TERMS` in `__init__.py` lists
the sections; recipes and runs ask them and know no term by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrellis.objectives.drw import Deferred
from vitrellis.objectives.objective import Head, Term
from vitrellis.objectives.schedules import Weight, WeightSchedule
from vitrellis.settings import Index, Section

MapsOf = Callable[[nn.Module, Tensor, Sequence[int]], tuple[Any, list[Tensor]]]
"""The signature of `vitrellis.models.forward_with_maps`."""

Blocks = Annotated[tuple[Index, ...], Field(min_length=1)]
"""Indices of blocks, 0-based, counted through all stages."""


class TappedModel(Protocol):
    """A model whose blocks return feature maps."""

    @property
    def model(self) -> nn.Module:
        """The model itself."""

    def num_blocks(self) -> int:
        """The number of blocks."""

    def channels(self, blocks: Sequence[int]) -> list[int]:
        """The number of channels of the maps of these blocks, in their order."""


@dataclass(frozen=True)
class TermContext:
    """The parts of a run that a term may be built from.

    Attributes:
        name: The term's name in logs and checkpoints.
        weight: The term's weight over the epochs.
        student: The student with its initial weights.
        teacher: The teacher, None for a term that needs none.
        class_counts: `(K,)` training images of each class.
        phases: The deferred phase for each of the student's heads; empty if there is no phase.
        forward_with_maps: `vitrellis.models.forward_with_maps`.
    """

    name: str
    weight: WeightSchedule
    student: TappedModel
    teacher: TappedModel | None
    class_counts: Tensor
    phases: Mapping[Head, Deferred]
    forward_with_maps: MapsOf

    def paired(
        self, student_blocks: Sequence[int], teacher_blocks: Sequence[int]
    ) -> dict[str, Any]:
        """Blocks and the channels of their maps, as the arguments of a term that compares maps."""
        assert self.teacher is not None, f"{self.name} is built without a teacher"
        return {
            "student_blocks": student_blocks,
            "teacher_blocks": teacher_blocks,
            "student_channels": self.student.channels(student_blocks),
            "teacher_channels": self.teacher.channels(teacher_blocks),
        }


class TermSection(Section, ABC):
    """The settings of a term in a recipe.

    Attributes:
        key: The key of the section under `objective`.
        needs_teacher: Whether the term learns from a teacher.
        needs_second_view: Whether the term compares two views of each image.
        needs_whole_images: Whether mixup and CutMix would make the term meaningless.
        in_every_objective: Whether the term is part of an objective that does not name it.
    """

    key: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    needs_second_view: ClassVar[bool] = False
    needs_whole_images: ClassVar[bool] = False
    in_every_objective: ClassVar[bool] = False

    weight: Weight = 1.0

    @property
    def handles_imbalance(self) -> bool:
        """Whether the term compensates for rare classes by itself."""
        return False

    @property
    def trained_head(self) -> Head:
        """The head of the student that the term trains, if it trains one."""
        return "class"

    @property
    def reweighted_head(self) -> Head | None:
        """The head whose loss the deferred phase can re-weight through this term, if any."""
        return None

    @abstractmethod
    def build(self, context: TermContext) -> Term:
        """Makes the term.

        Raises:
            UsageError: If the settings do not fit the student, the teacher or the classes.
        """

    def settings(self) -> dict[str, Any]:
        """The values of all keys but the weight, as arguments of the term."""
        return self.model_dump(exclude={"weight"})


class PairedSection(TermSection):
    """The common settings of terms that compare blocks in pairs."""

    needs_teacher: ClassVar[bool] = True

    teacher_blocks: Blocks
    """Blocks of the teacher to imitate; for the CIFAR ResNets a block is a stage."""
    student_blocks: Blocks
    """Blocks of the student, one for each of the teacher's."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        check_pairs(self.student_blocks, self.teacher_blocks)
        return self


def check_pairs(student_blocks: Sequence[int], teacher_blocks: Sequence[int]) -> None:
    """Makes sure that there are as many blocks of the student as of the teacher.

    Raises:
        ValueError: If there are not.
    """
    if len(student_blocks) != len(teacher_blocks):
        raise ValueError(
            f"student_blocks {list(student_blocks)} and teacher_blocks {list(teacher_blocks)} are "
            "compared in pairs, so both must be of one length"
        )
