"""The teachers of a run, asked together."""

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
        teachers: On the training device.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        super().__init__()
        self.teachers = nn.ModuleDict(teachers)
        self._stored: dict[str, PrecomputedTeacher] = {}

    def keep(self, name: str, stored: PrecomputedTeacher) -> None:
        """Answers from a store from now on, in place of asking this teacher."""
        self._stored[name] = stored

    def forward(self, batch: Batch, needs: Mapping[str, Needs]) -> dict[str, TeacherOutput]:
        """What the active terms need of each teacher.

        Args:
            batch: As the student sees it.
            needs: By teacher; of those that are not in it, nothing is computed.
        """
        return {
            name: self._stored[name](batch, wanted)
            if name in self._stored
            else self.teachers[name](batch.images, wanted)
            for name, wanted in needs.items()
        }

    def items(self) -> Iterator[tuple[str, Teacher]]:
        """Every teacher with its name."""
        for name, teacher in self.teachers.items():
            assert isinstance(teacher, Teacher)
            yield name, teacher

    def is_offline(self, name: str) -> bool:
        """Whether its answers come from a store."""
        return name in self._stored

    def drifting(self) -> nn.ModuleDict:
        """Teachers whose running statistics change, and so have to be checkpointed."""
        return nn.ModuleDict({n: t.model for n, t in self.items() if t.mode == "train"})
