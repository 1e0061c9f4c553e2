"""Attention transfer: the student imitates where the teacher's maps are active.

Paper: Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017,
https://arxiv.org/abs/1612.03928). For each pair of blocks, both maps are compared as in
`locality.py` with the transform "attention"; the loss is the sum over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from vitrellis.objectives.locality import LocalityGuidance
from vitrellis.objectives.objective import Signals, Term
from vitrellis.objectives.schedules import Weight, WeightSchedule
from vitrellis.objectives.term_sections import PairedSection, TermContext


class AttentionTransfer(Term):
    """The student imitates the teacher's attention maps, pair by pair of blocks.

    Args:
        student_blocks: Blocks of the student, one for each of `teacher_blocks`.
        teacher_blocks: Blocks of the teacher to imitate.
        weight: A number, or a schedule over epochs. The compared maps have length one, so that
            values are small.
        name: The term's name in logs and checkpoints.
    """
