"""Logit distillation: the student imitates the teacher's predictions, plainly or standardized.

Papers: Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531); hard labels
and distillation heads: DeiT (https://arxiv.org/abs/2012.12877); in long tails: DeiT-LT
(https://arxiv.org/abs/2404.02900). Original code: https://github.com/val-iisc/DeiT-LT,
https://github.com/sunshangquan/logit-standardization-KD, https://github.com/lkhl/tiny-transformers

How we differ from the published code: any student can be taught, on its class head as well as on a
distillation head, and the terms add up with every other. Weights multiply the term; none is hidden
in it. Where logits are standardized, gradients of rows that hardly vary are limited: see
`standardization.py`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection
from typing import ClassVar, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError, unknown_name
from vitrellis.objectives.drw import Deferred
from vitrellis.objectives.objective import HEADS, Head, Needs, Signals, Term, WeightedTerm
from vitrellis.objectives.precision import to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.standardization import (
    SIGMAS,
    Sigma,
    Standardize,
    is_standardized,
    limit_gradient,
    standardize,
)
from vitrellis.objectives.term_sections import TermContext, TermSection
from vitrellis.settings import Positive

Reduction = Literal["batch", "batch_and_classes"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


def soft_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Tensor | float = 2.0,
    reduction: Reduction = "batch",
) -> Tensor:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    Args:
        student_logits: `(B, K)`.
        teacher_logits: `(B, K)`. They get no gradient.
        temperature: Softens both sides (tau, T); a scalar.
        reduction: "batch": sum over classes, mean over the batch, as in logit standardization.
            "batch_and_classes": mean over both, as in tiny-transformers, K times smaller.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student_log_probs = (to_float32(student_logits) / temperature).log_softmax(dim=-1)  # (B, K)
    teacher_log_probs = (to_float32(teacher_logits.detach()) / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, reduction="sum", log_target=True)
    counts = {"batch": len(student_logits), "batch_and_classes": student_logits.numel()}
    return divergence * (temperature**2 / counts[reduction])


def hard_distillation(
    student_logits: Tensor, teacher_logits: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the teacher's favourite class as the label, batch mean.

    Args:
        student_logits: `(B, K)`.
        teacher_logits: `(B, K)`.
        class_weights: `(K,)` weights of the teacher's favourite classes, None for equal weights.
            The mean is then divided by the sum of the weights, as in DeiT-LT.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    logits = to_float32(student_logits)
    weights = class_weights.to(logits.dtype) if class_weights is not None else None
    return F.cross_entropy(logits, teacher_logits.argmax(dim=-1), weight=weights)


class LogitTerm(Term, ABC):
    """A term that compares logits of one of the student's heads with those of the teacher.

    Args:
        name: The name of the term in logs and checkpoints.
        weight: A number, or a schedule over epochs.
        head: Which of the student's heads learns from the teacher.
        standardize: Z-score both sides' logits first; "auto": unless there are two classes.
        sigma: See `standardize`.
        settings: The other settings in words.

    Attributes:
        silenced: What teaches nothing if standardized logits have no gradient, with its verb.

    Raises:
        UsageError: If `sigma` or `head` is unknown.
    """

    silenced = "the term teaches"

    def __init__(
        self,
        name: str,
        *,
        weight: WeightSchedule | float,
        head: Head,
        standardize: Standardize,
        sigma: Sigma,
        settings: str,
    ) -> None:
        check_choice(name, "sigma", sigma, SIGMAS)
        check_choice(name, "head", head, HEADS)
        if standardize:
            unless = " unless there are two classes" if standardize == "auto" else ""
            settings += f", standardized by the {sigma} deviation{unless}"
        super().__init__(
            name,
            weight=weight,
            needs=Needs(teacher_logits=True),
            settings=f"{settings}; {head} head",
        )
        self.head = head
        self.standardize: Standardize = standardize
        self.sigma: Sigma = sigma

    def without_gradient(self, num_classes: int) -> list[str]:
        """Standardization where two classes leave it nothing but constants."""
        if num_classes > 2 or not is_standardized(self.standardize, num_classes):
            return []
        return [
            f"{self.key}.standardize: {str(self.standardize).lower()} leaves of {num_classes} "
            f"classes nothing but their order, which has no gradient: {self.silenced} the student "
            f"nothing. Use {self.key}.standardize=auto"
        ]

    def plain_logits(self, signals: Signals) -> tuple[Tensor, Tensor]:
        """`(B, K)` of the student's head and of the teacher, as they are.

        Raises:
            UsageError: If the student lacks the head.
        """
        assert signals.teacher_logits is not None, f"{self.name} was given no teacher's logits"
        if self.head == "class":
            return signals.logits, signals.teacher_logits
        if signals.distillation_logits is None:
            raise UsageError(
                f"{self.name}.head: this student has no distillation head. Use head=class, a "
                "distilled model such as deit_tiny_distilled_patch16_224, or "
                "model.distillation_head=true"
            )
        return signals.distillation_logits, signals.teacher_logits

    def compared_logits(self, signals: Signals) -> tuple[Tensor, Tensor]:
        """The same logits, standardized if the term says so."""
        student_logits, teacher_logits = self.plain_logits(signals)
        if is_standardized(self.standardize, student_logits.shape[1]):
            student_logits = limit_gradient(student_logits, sigma=self.sigma)
            student_logits = standardize(student_logits, sigma=self.sigma)
            teacher_logits = standardize(teacher_logits, sigma=self.sigma)
        return student_logits, teacher_logits


class LogitSection(TermSection):
    """The common settings of all terms that compare logits."""

    needs_teacher: ClassVar[bool] = True
    term: ClassVar[Callable[..., LogitTerm]]

    standardize: Standardize = "auto"
    """Z-score both sides' logits first (LSKD: Sun et al., CVPR 2024, arXiv 2403.01427). `auto` does
    so unless there are two classes, of which only the order would be left, without a gradient."""
    sigma: Sigma = "sample"
    """The deviation: `sample` divides by K - 1 for K classes, as published code does, and
    `population` by K, as the paper writes."""
    head: Head = "class"
    """The student's head that learns from the teacher; for `distillation` see
    `model.distillation_head`."""

    @property
    def trained_head(self) -> Head:
        """See `head`."""
        return self.head

    def build(self, context: TermContext) -> LogitTerm:
        """Makes the term: the keys of the section are its arguments."""
        settings = self.settings()
        settings["standardize"] = is_standardized(self.standardize, len(context.class_counts))
        return self.term(name=context.name, weight=context.weight, **settings)


class KD(LogitTerm):
    """The student imitates the teacher's probabilities.

    Args:
        temperature: See `soft_distillation`.
        standardize: Z-score both sides' logits first (logit standardization, LSKD); "auto": unless
            there are two classes.
        sigma: See `standardize`.
        reduction: See `soft_distillation`.
        head: Which of the student's heads learns from the teacher.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        standardize: Standardize = "auto",
        sigma: Sigma = "sample",
        reduction: Reduction = "batch",
        head: Head = "class",
        weight: WeightSchedule | float = 1.0,
        name: str = "kd",
    ) -> None:
        check_choice(name, "reduction", reduction, REDUCTIONS)
        check_temperature(name, temperature)
        super().__init__(
            name,
            weight=weight,
            head=head,
            standardize=standardize,
            sigma=sigma,
            settings=f"T {temperature:g}, mean over {reduction.replace('_', ' ')}",
        )
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        return soft_distillation(
            *self.compared_logits(signals), temperature=self.temperature, reduction=self.reduction
        )


class KDSection(LogitSection):
    """Imitates the teacher's probabilities (Hinton et al., arXiv 1503.02531)."""

    key: ClassVar[str] = "kd"
    term: ClassVar[Callable[..., LogitTerm]] = KD

    temperature: Positive = 2.0
    """The temperature that softens both sides' probabilities (tau)."""
    reduction: Reduction = "batch"
    """The mean over the batch, as in LSKD's code, or over batch and classes, K times smaller."""


class HardDistillation(LogitTerm, WeightedTerm):
    """The student learns the teacher's favourite class as if it were the label (DeiT, eq. 3).

    Neither a temperature nor standardization would change the class that the teacher predicts. In a
    long tail it predicts rare classes too rarely; DeiT-LT weights them in the last phase. The loss
    is then divided by the weights of the whole batch, whatever portions and devices compute it;
    DeiT-LT's code divides each portion by its own.

    Args:
        head: Which of the student's heads learns from the teacher.
        deferred: The last phase of training, None if there is none.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Raises:
        UsageError: If `head` is unknown.
    """

    def __init__(
        self,
        *,
        head: Head = "class",
        deferred: Deferred | None = None,
        weight: WeightSchedule | float = 1.0,
        name: str = "hard",
    ) -> None:
        later = deferred.describe() if deferred is not None else ""
        super().__init__(
            name,
            weight=weight,
            head=head,
            standardize=False,
            sigma="sample",
            settings=", ".join(filter(None, ["the teacher's favourite class", later])),
        )
        self.deferred = deferred

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        class_weights = self._class_weights(signals.epoch)
        return hard_distillation(*self.plain_logits(signals), class_weights=class_weights)

    def is_weighted(self, epoch: int) -> bool:
        """Whether the deferred phase re-weights classes in this epoch."""
        return self._class_weights(epoch) is not None

    def weight_sum(self, targets: Tensor, teacher_logits: Tensor | None, epoch: int) -> Tensor:
        """The sum over images of the weights of the classes that the teacher predicts."""
        del targets
        class_weights = self._class_weights(epoch)
        assert class_weights is not None, f"{self.name} is not weighted in epoch {epoch}"
        assert teacher_logits is not None, f"{self.name} was given no teacher's logits"
        return class_weights[teacher_logits.argmax(dim=-1)].sum()

    def _class_weights(self, epoch: int) -> Tensor | None:
        return None if self.deferred is None else self.deferred.class_weights_in(epoch)


class HardSection(TermSection):
    """Learns the class that the teacher predicts as a label (DeiT, arXiv 2012.12877)."""

    key: ClassVar[str] = "hard"
    needs_teacher: ClassVar[bool] = True

    head: Head = "class"
    """The student's head that learns from the teacher; for `distillation` see
    `model.distillation_head`."""

    @property
    def trained_head(self) -> Head:
        """See `head`."""
        return self.head

    @property
    def reweighted_head(self) -> Head | None:
        """The distillation head, if this term trains it; the class head follows the labels."""
        return "distillation" if self.head == "distillation" else None

    def build(self, context: TermContext) -> HardDistillation:
        """Makes the term."""
        return HardDistillation(
            name=context.name,
            weight=context.weight,
            head=self.head,
            deferred=context.phases.get("distillation"),
        )


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Checks that both are `(B, K)` with the same classes.

    Raises:
        UsageError: If they are not.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise UsageError(
            f"distillation: logits are {tuple(student_logits.shape)} from the student and "
            f"{tuple(teacher_logits.shape)} from the teacher; both should be (batch, classes) of "
            "the same classes"
        )


def check_choice(name: str, setting: str, value: str, known: Collection[str]) -> None:
    """Refuses a value that is not in `known`.

    Raises:
        UsageError: If it is not.
    """
    if value not in known:
        raise unknown_name(f"{name}.{setting}", value, tuple(known))


def check_temperature(name: str, *temperatures: float) -> None:
    """Refuses temperatures that are not positive and finite.

    Raises:
        UsageError: If one is not.
    """
    for temperature in temperatures:
        if not 0 < temperature < float("inf"):
            raise UsageError(f"{name}: temperature is {temperature}, it should be above 0")
