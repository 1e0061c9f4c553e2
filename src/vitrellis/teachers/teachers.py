"""All teachers of a run as one module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from vitrellis.data.loader import Batch
from vitrellis.objectives import Needs, TeacherOutput
from vitrellis.teachers.precomputed import PrecomputedTeacher
from vitrellis.teachers.teacher import Teacher


class Teachers(nn.Module):
    """Teachers by name; there may be none.

    Args:
        teachers: The teachers, on the training device.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        super().__init__()
        self.teachers = nn.ModuleDict(teachers)
        self._stored: dict[str, PrecomputedTeacher] = {}

    def keep(self, name: str, stored: PrecomputedTeacher) -> None:
        """Takes the outputs of this teacher from a store from now on."""
        self._stored[name] = stored

    def forward(self, batch: Batch, needs: Mapping[str, Needs]) -> dict[str, TeacherOutput]:
        """The outputs that the active terms need of each teacher.

        Args:
            batch: The student's batch.
            needs: The outputs to compute, by the teacher's name. A teacher without any is not run.
        """
        return {
            name: self._stored[name](batch, outputs)
            if name in self._stored
            else self.teachers[name](batch.images, outputs)
            for name, outputs in needs.items()
        }

    def items(self) -> Iterator[tuple[str, Teacher]]:
        """Every teacher with its name."""
        for name, teacher in self.teachers.items():
            assert isinstance(teacher, Teacher)
            yield name, teacher

    def is_offline(self, name: str) -> bool:
        """Whether its outputs come from a store."""
        return name in self._stored

    def drifting(self) -> nn.ModuleDict:
        """The teachers whose running statistics change and must be checkpointed."""
        return nn.ModuleDict({n: t.model for n, t in self.items() if t.mode == "train"})
