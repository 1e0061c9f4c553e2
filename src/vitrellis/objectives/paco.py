"""Parametric contrastive learning: images of a class are drawn to its centre, and to each other.

Paper: Cui et al., "Parametric Contrastive Learning", ICCV 2021, https://arxiv.org/abs/2107.12028,
equation 4. Original code: github.com/dvlab-research/Parametric-Contrastive-Learning (LT/losses.py
and LT/moco/builder.py), which we follow where it differs from the paper: the positives' terms are
divided by the sum of their weights, centres are not divided by the temperature, and their logits
carry the log class prior.

How we differ from the code: the queue begins with directions of length one that belong to no class
(the code's belong to random classes, some beyond the last), and takes batches of any size. The
recipe decides how the two views are made.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.objective import FollowingTerm, Needs, Signals
from vitrellis.objectives.precision import full_precision, to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.term_sections import MapsOf, TermContext, TermSection
from vitrellis.settings import Count, NonNegative, Positive, ProperFraction

NO_CLASS = -1
"""The label of the queue's initial keys, which come from no image."""


def paco_loss(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    queue_labels: Tensor,
    adjusted_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.05,
    alpha: float = 0.01,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """The contrastive loss of each image with the centres of classes and other images, batch mean.

    Let `c` be the adjusted logits of image `i`, and `s` its similarities, divided by the
    temperature, to all others (the batch's other queries, the keys and the queue). The loss is the
    mean over its positives, weighted `beta` for the centre of its class and `alpha` for each other
    image of its class, of

        -log(exp(c or s of the positive) / (sum(exp(c)) + gamma * sum(exp(s))))

    Args:
        queries: `(B, D)` features of the images, of length one.
        keys: `(B, D)` features of the images' second views, of length one. They get no gradient.
        queue: `(Q, D)` features of earlier images, of length one. They get no gradient.
        queue_labels: `(Q,)` int64.
        adjusted_logits: `(B, K)` logits of the classifier, plus the log class prior.
        labels: `(B,)` int64, of queries and keys alike.
        temperature: The divisor of similarities (tau); logits are not divided.
        alpha: The weight of each other image of the same class.
        beta: The weight of the centre.
        gamma: The weight of other images in the denominator.

    Returns:
        A scalar.
    """
    others = torch.cat([queries, keys.detach(), queue.detach()])  # (2B + Q, D)
    other_labels = torch.cat([labels, labels, queue_labels])
    similarities = queries @ others.T / temperature  # (B, 2B + Q)
    is_itself = torch.eye(*similarities.shape, dtype=torch.bool, device=queries.device)
    counted = similarities.masked_fill(is_itself, -torch.inf)
    if gamma == 0:
        normalizer = adjusted_logits.logsumexp(dim=1)
    else:
        scores = torch.cat([adjusted_logits, counted + math.log(gamma)], dim=1)
        normalizer = scores.logsumexp(dim=1)  # (B,)
    is_positive = (labels[:, None] == other_labels) & ~is_itself
    positive = similarities.masked_fill(~is_positive, 0).sum(dim=1)
    centre = adjusted_logits.gather(1, labels[:, None]).squeeze(1)
    weights = beta + alpha * is_positive.to(similarities.dtype).sum(dim=1)
    return (normalizer - (beta * centre + alpha * positive) / weights).mean()


class PaCo(FollowingTerm):
    """Parametric contrastive learning. It takes the place of the cross-entropy.

    Features are the last block's maps, averaged over positions, which is the classifier's input in
    a CNN. A perceptron computes queries from them. Keys are computed from the second view, by
    copies of student and perceptron that follow them slowly. The parts of an accumulated batch are
    each compared within themselves and with the queue, which holds the parts before them; so are
    those of several devices, whose keys all enter the queue, as in the published code.

    Args:
        student: The student with its initial weights; the term keeps a copy.
        block: The last block of the student.
        channels: The channels of that block's maps.
        class_counts: `(K,)` training images of each class.
        maps_of: `vitrellis.models.forward_with_maps`.
        temperature: See `paco_loss`.
        alpha: See `paco_loss`.
        beta: See `paco_loss`.
        gamma: See `paco_loss`.
        dimension: The dimension of queries and keys.
        queue: The number of earlier keys that are kept.
        momentum: The share of their own weights that the copies keep at each step.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        block: int,
        channels: int,
        class_counts: Tensor,
        maps_of: MapsOf,
        temperature: float = 0.05,
        alpha: float = 0.01,
        beta: float = 1.0,
        gamma: float = 1.0,
        dimension: int = 32,
        queue: int = 1024,
        momentum: float = 0.999,
        weight: WeightSchedule | float = 1.0,
        name: str = "paco",
    ) -> None:
        super().__init__(
            name,
            weight=weight,
            needs=Needs(student_blocks=(block,)),
            settings=f"temperature {temperature:g}, alpha {alpha:g}, beta {beta:g}, "
            f"gamma {gamma:g}; {queue} keys of dimension {dimension}, momentum {momentum:g}",
        )
        self.compares = "each image with the others"
        self.block = block
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.momentum = momentum
        self._maps_of = maps_of
        self.projection = _perceptron(channels, dimension)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.key_student = copy.deepcopy(student).requires_grad_(False)
        self.queue: Tensor
        self.queue_labels: Tensor
        self.position: Tensor
        self.log_prior: Tensor
        self.register_buffer("queue", F.normalize(torch.randn(queue, dimension), dim=1))
        self.register_buffer("queue_labels", torch.full((queue,), NO_CLASS))
        self.register_buffer("position", torch.tensor(0))
        prior = class_counts.double() / class_counts.sum()
        self.register_buffer("log_prior", (prior + 1e-9).log().float(), persistent=False)

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar; the keys enter the queue.

        Raises:
            UsageError: If there is no second view, or only one image.
        """
        if signals.second_view is None:
            raise UsageError(f"{self.name}: needs a second view of each image")
        if len(signals.targets) < 2:
            raise UsageError(
                f"{self.name}: a batch of one image has nothing to be compared with. Use a larger "
                "training.batch_size, fewer training.accumulate, or training.drop_last=true"
            )
        labels = signals.targets.argmax(dim=1)  # (B,)
        queries = _directions(self.projection, signals.student_maps[self.block])
        with torch.no_grad():
            _, maps = self._maps_of(self.key_student, signals.second_view, [self.block])
            keys = _directions(self.key_projection, maps[0])
        logits = to_float32(signals.logits)
        with full_precision(logits):
            loss = paco_loss(
                queries,
                keys,
                self.queue,
                self.queue_labels,
                logits + self.log_prior,
                labels,
                temperature=self.temperature,
                alpha=self.alpha,
                beta=self.beta,
                gamma=self.gamma,
            )
        self._enqueue(self.gather(keys), self.gather(labels))
        return loss

    @torch.no_grad()
    def end_step(self, student: nn.Module) -> None:
        """Moves the copies a little towards their originals; batch statistics are not copied."""
        pairs = ((self.key_student, student), (self.key_projection, self.projection))
        for copied, original in pairs:
            torch._foreach_lerp_(
                list(copied.parameters()),
                [parameter.detach() for parameter in original.parameters()],
                1 - self.momentum,
            )

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Replaces the oldest keys by these, or by the last of these if the queue is shorter."""
        size = len(self.queue)
        keys, labels = keys[-size:], labels[-size:]
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys.to(self.queue.dtype)
        self.queue_labels[places] = labels
        self.position.add_(len(keys)).remainder_(size)


class PaCoSection(TermSection):
    """Draws images to their class and to each other (Cui et al., ICCV 2021, arXiv 2107.12028).

    It contrasts two views of each image to tell the classes of a long tail apart, and takes the
    place of the cross-entropy, so give `cross_entropy` the weight 0.
    """

    key: ClassVar[str] = "paco"
    needs_second_view: ClassVar[bool] = True
    needs_whole_images: ClassVar[bool] = True

    temperature: Positive = 0.05
    """The divisor of similarities between images: 0.05 for CIFAR, 0.2 for large datasets."""
    alpha: NonNegative = 0.01
    """The weight of each other image of the class: 0.01 for CIFAR, 0.05 for large datasets."""
    beta: Positive = 1.0
    """The weight of the class itself."""
    gamma: NonNegative = 1.0
    """The weight of other images beside the classes."""
    dimension: Count = 32
    """The dimension in which images are compared: 32 for CIFAR, 128 for large datasets."""
    queue: Count = 1024
    """The number of earlier images to compare with: 1024 for CIFAR, 8192 for large datasets."""
    momentum: ProperFraction = 0.999
    """The momentum of the student's copy that computes the features of earlier images."""

    @property
    def handles_imbalance(self) -> bool:
        """Always true: the logits of the classes carry their log prior."""
        return True

    def build(self, context: TermContext) -> PaCo:
        """Makes the term, which compares the maps of the student's last block."""
        block = context.student.num_blocks() - 1
        (channels,) = context.student.channels([block])
        return PaCo(
            name=context.name,
            weight=context.weight,
            student=context.student.model,
            block=block,
            channels=channels,
            class_counts=context.class_counts,
            maps_of=context.forward_with_maps,
            **self.settings(),
        )


def _perceptron(channels: int, dimension: int) -> nn.Sequential:
    """Two layers, `(B, channels)` to `(B, dimension)`."""
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.BatchNorm1d(channels),
        nn.ReLU(),
        nn.Linear(channels, dimension),
    )


def _directions(projection: nn.Module, maps: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, D)` of length one."""
    features = to_float32(maps).mean(dim=(2, 3))  # (B, C)
    with full_precision(features):
        return F.normalize(projection(features), dim=1)
