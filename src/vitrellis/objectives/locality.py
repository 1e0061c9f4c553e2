"""Locality guidance: the student imitates the feature maps of a small convolutional teacher.

Paper: Locality Guidance for Improving Vision Transformers on Tiny Datasets (ECCV 2022,
https://arxiv.org/abs/2207.10026). Original code: https://github.com/lkhl/tiny-transformers

For each pair of a student block and a teacher block, both maps are resized bilinearly to the larger
of the two sizes, described by one of three transforms and compared by their mean squared error. The
loss is the sum over pairs; the published factor of 2.5 is the term's weight. The transforms:

- "linear": the student's map goes through its own 1x1 convolution to the teacher's channels
  (before it is resized: convolution and resizing commute, and the smaller map is cheaper);
- "attention": the mean over channels of the squared map, as a vector of length one per image;
- "similarity": the dot products of each image's map with those of all images of the batch, as a
  vector of length one per image; of those of its portion, where a batch is computed in several.

With `learned=True` each teacher block is compared with a softmax-weighted mixture of all the given
student blocks, uniform to begin with (the alignment of iBKD, https://arxiv.org/abs/2608.10723).

How we differ from the published code: the 1x1 convolutions are part of the term's state, so that
they are checkpointed; the other two transforms learn nothing, and create no convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Discriminator, Tag, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError, unknown_name
from vitrellis.objectives.objective import Needs, Signals, Term
from vitrellis.objectives.precision import full_precision, to_float32
from vitrellis.objectives.schedules import Weight, WeightSchedule
from vitrellis.objectives.term_sections import Blocks, TermContext, TermSection, check_pairs

Transform = Literal["linear", "attention", "similarity"]


def locality_loss(
    student_map: Tensor, teacher_map: Tensor, *, transform: Transform = "linear"
) -> Tensor:
    """The mean squared error of one pair of maps, described by a transform. See the module.

    Args:
        student_map: `(B, C, H, W)`; for "linear", with the teacher's channels already.
        teacher_map: `(B, C', H', W')`. It gets no gradient.
        transform: The description of the maps that is compared.

    Returns:
        A scalar, the mean over all elements of the described maps.

    Raises:
        UsageError: If the transform is unknown, or cannot compare these maps.
    """
    if transform not in TRANSFORMS:
        raise unknown_name("transform", transform, TRANSFORMS)
    student_map, teacher_map = to_float32(student_map), to_float32(teacher_map.detach())
    if len(student_map) != len(teacher_map) or (
        transform == "linear" and student_map.shape[1] != teacher_map.shape[1]
    ):
        raise UsageError(
            f"locality ({transform}): maps of {tuple(student_map.shape)} from the student and "
            f"{tuple(teacher_map.shape)} from the teacher cannot be compared"
        )
    size = _larger_size([student_map, teacher_map])
    described = TRANSFORMS[transform]
    return F.mse_loss(described(resize(student_map, size)), described(resize(teacher_map, size)))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps bilinearly, without antialiasing; maps of the right size stay as they are.

    Args:
        maps: `(B, C, H, W)`.
        size: `(H', W')`.

    Returns:
        `(B, C, H', W')`.
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def attention_map(maps: Tensor) -> Tensor:
    """The activity of a map: the mean over channels of its square, of length one per image.

    Args:
        maps: `(B, C, H, W)`.

    Returns:
        `(B, H * W)`.
    """
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def similarity_matrix(maps: Tensor) -> Tensor:
    """The similarities of a batch's images: dot products of their maps, rows of length one.

    Args:
        maps: `(B, C, H, W)`.

    Returns:
        `(B, B)`.
    """
    flat = maps.flatten(1)  # (B, C * H * W)
    with full_precision(flat):
        return F.normalize(flat @ flat.T, dim=1)


class LocalityGuidance(Term):
    """The student imitates the teacher's feature maps, pair by pair of blocks.

    Args:
        student_blocks: A block for each of `teacher_blocks`; or, if `learned`, all that are mixed.
        teacher_blocks: Blocks of the teacher to imitate.
        student_channels: The channels of the maps of `student_blocks`, in their order.
        teacher_channels: The channels of the maps of `teacher_blocks`, in their order.
        transform: The description of the maps that is compared.
        learned: Compare each teacher block with a learned mixture of all `student_blocks`. Their
            maps are resized to the largest of their sizes, and must have equal channels.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Attributes:
        projections: The 1x1 convolutions, one for each teacher block; empty unless "linear".
        mixture_logits: One vector over `student_blocks` for each teacher block; empty unless
            learned. Vectors, because an optimizer usually spares these from weight decay.

    Raises:
        UsageError: If blocks do not pair up, channels do not match, or the transform is unknown.
    """

    def __init__(
        self,
        *,
        student_blocks: Sequence[int],
        teacher_blocks: Sequence[int],
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        transform: Transform = "linear",
        learned: bool = False,
        weight: WeightSchedule | float = 2.5,
        name: str = "locality",
    ) -> None:
        if transform not in TRANSFORMS:
            raise unknown_name("transform", transform, TRANSFORMS)
        _check_counts(name, "student", student_blocks, student_channels)
        _check_counts(name, "teacher", teacher_blocks, teacher_channels)
        if learned:
            _check_can_be_mixed(name, student_blocks, student_channels)
            student_channels = [student_channels[0]] * len(teacher_blocks)
        elif len(student_blocks) != len(teacher_blocks):
            raise UsageError(
                f"{name}: {len(student_blocks)} student blocks ({_listed(student_blocks)}) and "
                f"{len(teacher_blocks)} teacher blocks ({_listed(teacher_blocks)}) are compared in "
                "pairs: give as many of one as of the other, or use learned student blocks"
            )
        super().__init__(
            name,
            weight=weight,
            needs=Needs(student_blocks=tuple(student_blocks))
            | Needs(teacher_blocks=tuple(teacher_blocks)),
            settings=f"{transform}; {'a learned mixture of ' if learned else ''}student blocks "
            f"{_listed(student_blocks)} → teacher blocks {_listed(teacher_blocks)}",
        )
        self.student_blocks = tuple(student_blocks)
        self.teacher_blocks = tuple(teacher_blocks)
        self.transform: Transform = transform
        if transform == "similarity":
            self.compares = "each image's maps with the others'"
        self.learned = learned
        widths = zip(student_channels, teacher_channels, strict=True)
        self.projections = nn.ModuleList(
            nn.Conv2d(student_width, teacher_width, kernel_size=1)
            for student_width, teacher_width in (widths if transform == "linear" else ())
        )
        self.mixture_logits = nn.ParameterList(
            torch.zeros(len(student_blocks)) for _ in (teacher_blocks if learned else ())
        )

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar: the sum over pairs."""
        missing = (
            set(self.student_blocks) - signals.student_maps.keys(),
            set(self.teacher_blocks) - signals.teacher_maps.keys(),
        )
        assert missing == (set(), set()), f"{self.name} lacks maps of student, teacher: {missing}"
        student_maps = self.project(self.mix(signals.student_maps))
        losses = [
            locality_loss(student_map, signals.teacher_maps[block], transform=self.transform)
            for student_map, block in zip(student_maps, self.teacher_blocks, strict=True)
        ]
        return torch.stack(losses).sum()

    def mix(self, student_maps: Mapping[int, Tensor]) -> list[Tensor]:
        """The student's map for each teacher block: that of its block, or the learned mixture.

        Args:
            student_maps: The map of each of `student_blocks`, `(B, C, H, W)`, by block index.
        """
        maps = [student_maps[block] for block in self.student_blocks]
        return _mix(maps, self.mixture()) if self.learned else maps

    def project(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """What `mix` returns, with the teacher's channels if the transform is "linear"."""
        if not self.projections:
            return list(maps)
        return [
            _project(student_map, projection)
            for student_map, projection in zip(maps, self.projections, strict=True)
        ]

    def mixture(self) -> Tensor:
        """The weights of the student blocks that each teacher block is compared with, if learned.

        Returns:
            `(len(teacher_blocks), len(student_blocks))`; rows are positive and sum to one.
        """
        assert self.learned, "fixed pairs have no mixture"
        return torch.stack([to_float32(logits).softmax(dim=0) for logits in self.mixture_logits])


def _blocks_tag(value: object) -> str:
    return "(or a list of block indices)" if isinstance(value, str) else "(list)"


class LocalitySection(TermSection):
    """Imitates a convolutional teacher's feature maps (Li et al., ECCV 2022, arXiv 2207.10026)."""

    key: ClassVar[str] = "locality"
    needs_teacher: ClassVar[bool] = True

    weight: Weight = 2.5
    transform: Transform = "linear"
    """The maps that are compared: after a learned 1x1 convolution, attention maps, or similarities.
    """
    teacher_blocks: Blocks = (0, 1, 2)
    """Blocks of the teacher to imitate; for the CIFAR ResNets a block is a stage."""
    student_blocks: Annotated[
        Annotated[Literal["learned"], Tag("(or a list of block indices)")]
        | Annotated[Blocks, Tag("(list)")],
        Discriminator(_blocks_tag),
    ]
    """Blocks of the student, one for each of the teacher's, or `learned`: a mixture of all."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if not isinstance(self.student_blocks, str):
            check_pairs(self.student_blocks, self.teacher_blocks)
        return self

    def build(self, context: TermContext) -> LocalityGuidance:
        """Makes the term."""
        learned = isinstance(self.student_blocks, str)
        blocks = range(context.student.num_blocks()) if learned else self.student_blocks
        return LocalityGuidance(
            name=context.name,
            weight=context.weight,
            transform=self.transform,
            learned=learned,
            **context.paired([int(block) for block in blocks], self.teacher_blocks),
        )


def _project(student_map: Tensor, projection: nn.Module) -> Tensor:
    """The 1x1 convolution in full precision, `(B, C, H, W)` to `(B, C', H, W)`."""
    assert isinstance(projection, nn.Conv2d)
    assert projection.bias is not None
    with full_precision(student_map):
        return F.conv2d(
            to_float32(student_map), to_float32(projection.weight), to_float32(projection.bias)
        )


def _mix(maps: Sequence[Tensor], mixture: Tensor) -> list[Tensor]:
    """Weighted sums of maps.

    Args:
        maps: One `(B, C, H, W)` per block, of possibly different sizes.
        mixture: `(pairs, blocks)`.

    Returns:
        One `(B, C, H, W)` per pair, of the largest size.
    """
    size = _larger_size(maps)
    stacked = torch.stack([resize(to_float32(block_map), size) for block_map in maps])
    with full_precision(stacked):
        return list(torch.tensordot(mixture, stacked, dims=1))  # (pairs, B, C, H, W)


def _larger_size(maps: Sequence[Tensor]) -> tuple[int, int]:
    """The greatest height and the greatest width."""
    return max(m.shape[-2] for m in maps), max(m.shape[-1] for m in maps)


def _check_counts(name: str, whose: str, blocks: Sequence[int], channels: Sequence[int]) -> None:
    if not blocks:
        raise UsageError(f"{name}: no {whose} blocks; it needs at least one")
    if len(blocks) != len(channels):
        raise UsageError(
            f"{name}: {len(channels)} {whose} channels ({_listed(channels)}) for {len(blocks)} "
            f"{whose} blocks ({_listed(blocks)}); there should be one for each"
        )


def _check_can_be_mixed(name: str, blocks: Sequence[int], channels: Sequence[int]) -> None:
    if len(set(blocks)) != len(blocks):
        raise UsageError(f"{name}: a mixture of blocks {_listed(blocks)} names one of them twice")
    if len(set(channels)) > 1:
        widths = ", ".join(f"{b}: {c}" for b, c in zip(blocks, channels, strict=True))
        raise UsageError(
            f"{name}: a learned mixture needs student blocks of equal width, these have channels "
            f"{{{widths}}}. Name pairs of blocks instead, or mix blocks of one stage only"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _unchanged(maps: Tensor) -> Tensor:
    return maps


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _unchanged,
    "attention": attention_map,
    "similarity": similarity_matrix,
}
"""The descriptions of maps, by name. Two maps of one size are described, and then compared."""
