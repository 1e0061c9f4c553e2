"""Attention transfer: the student imitates where the teacher's maps are active.

Paper: Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017,
https://arxiv.org/abs/1612.03928). For each pair of blocks, both maps are compared as in
`locality.py` with the transform "attention"; the loss is the sum over pairs.
"""

from __future__ import annotations

from typing import ClassVar

from vitrellis.objectives.locality import LocalityGuidance
from vitrellis.objectives.schedules import Weight
from vitrellis.objectives.term_sections import PairedSection, TermContext


class AttentionTransferSection(PairedSection):
    """Imitates where the teacher's maps are active (Zagoruyko, Komodakis, arXiv 1612.03928).

    The compared maps have length one, so that values are small and the weight is large.
    """

    key: ClassVar[str] = "attention_transfer"

    weight: Weight = 1000.0

    def build(self, context: TermContext) -> LocalityGuidance:
        """Makes the term: locality guidance of attention maps."""
        return LocalityGuidance(
            name=context.name,
            weight=context.weight,
            transform="attention",
            **context.paired(self.student_blocks, self.teacher_blocks),
        )
