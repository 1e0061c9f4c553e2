"""Feature distillation: the student imitates features of the whole image from a teacher's block.

Maps are averaged over their positions, so that nothing spatial is left to imitate; compare
`locality.py`, which keeps it. Papers: FitNets (https://arxiv.org/abs/1412.6550) for the learned
projection; timm calls it feature distillation.

How we differ from timm's: any block of either side can be paired, not only what enters the
classifier, and class tokens take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.distillation import check_choice
from vitrellis.objectives.objective import Needs, Signals, Term
from vitrellis.objectives.precision import full_precision, to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.term_sections import PairedSection, TermContext

Distance = Literal["squared", "cosine"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)


def pooled_imitation(
    student_features: Tensor, teacher_features: Tensor, *, distance: Distance = "squared"
) -> Tensor:
    """The distance of pooled features from the teacher's.

    Args:
        student_features: `(B, C)`.
        teacher_features: `(B, C)`. They get no gradient.
        distance: "squared": mean squared error over batch and channels. "cosine": one minus the
            cosine of the angle between the two, batch mean.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ, or the distance is unknown.
    """
    check_choice("features", "distance", distance, DISTANCES)
    if student_features.shape != teacher_features.shape:
        raise UsageError(
            f"features: {tuple(student_features.shape)} from the student and "
            f"{tuple(teacher_features.shape)} from the teacher cannot be compared"
        )
    student_features, teacher_features = (
        to_float32(student_features),
        to_float32(teacher_features.detach()),
    )
    if distance == "squared":
        return F.mse_loss(student_features, teacher_features)
    return 1 - F.cosine_similarity(student_features, teacher_features, dim=-1).mean()


class PooledFeatures(Term):
    """Averages over positions of the student's maps, linearly projected, imitate the teacher's.

    Args:
        student_blocks: A block for each of `teacher_blocks`.
        teacher_blocks: Blocks of the teacher to imitate.
        student_channels: The channels of the maps of `student_blocks`.
        teacher_channels: The channels of the maps of `teacher_blocks`.
        distance: See `pooled_imitation`.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Attributes:
        projections: Linear layers to the teacher's channels, one for each pair.

    Raises:
        UsageError: If the blocks do not pair up, or the distance is unknown.
    """

    def __init__(
        self,
        *,
        student_blocks: Sequence[int],
        teacher_blocks: Sequence[int],
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        distance: Distance = "squared",
        weight: WeightSchedule | float = 1.0,
        name: str = "features",
    ) -> None:
        check_choice(name, "distance", distance, DISTANCES)
        counts = {len(student_blocks), len(teacher_blocks)}
        counts |= {len(student_channels), len(teacher_channels)}
        if len(counts) != 1 or 0 in counts:
            raise UsageError(
                f"{name}: {len(student_blocks)} student blocks and {len(teacher_blocks)} teacher "
                "blocks are compared in pairs: give as many of one as of the other, at least one"
            )
        pairs = ", ".join(
            f"{mine} → {theirs}"
            for mine, theirs in zip(student_blocks, teacher_blocks, strict=True)
        )
        super().__init__(
            name,
            weight=weight,
            needs=Needs(student_blocks=tuple(student_blocks))
            | Needs(teacher_blocks=tuple(teacher_blocks)),
            settings=f"pooled, {distance} distance; blocks {pairs}",
        )
        self.student_blocks = tuple(student_blocks)
        self.teacher_blocks = tuple(teacher_blocks)
        self.distance: Distance = distance
        self.projections = nn.ModuleList(
            nn.Linear(mine, theirs)
            for mine, theirs in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar: the sum over pairs."""
        losses = []
        pairs = zip(self.student_blocks, self.teacher_blocks, self.projections, strict=True)
        for student_block, teacher_block, projection in pairs:
            pooled = to_float32(signals.student_maps[student_block]).mean(dim=(2, 3))  # (B, C)
            with full_precision(pooled):
                projected = projection(pooled)  # (B, C')
            teacher_pooled = to_float32(signals.teacher_maps[teacher_block]).mean(dim=(2, 3))
            losses.append(pooled_imitation(projected, teacher_pooled, distance=self.distance))
        return torch.stack(losses).sum()


class FeaturesSection(PairedSection):
    """Imitates the teacher's features, averaged over the image (feature distillation)."""

    key: ClassVar[str] = "features"

    distance: Distance = "squared"
    """Mean squared error, or one minus the cosine of the angle."""

    def build(self, context: TermContext) -> PooledFeatures:
        """Makes the term."""
        return PooledFeatures(
            name=context.name,
            weight=context.weight,
            distance=self.distance,
            **context.paired(self.student_blocks, self.teacher_blocks),
        )
