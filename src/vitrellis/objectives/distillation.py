"""Logit distillation: the student imitates the teacher's predictions, plainly or standardized.

Papers: Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531); Logit
Standardization in Knowledge Distillation (CVPR 2024, https://arxiv.org/abs/2403.01427); hard labels
and distillation heads: DeiT (https://arxiv.org/abs/2012.12877). Original code:
https://github.com/sunshangquan/logit-standardization-KD, https://github.com/lkhl/tiny-transformers

How we differ from the published code:

- Any student can be taught, on its class head as well as on a distillation head, and the term adds
  up with every other. Weights multiply the term; none is hidden in it.
- Standardization divides by the logits' standard deviation, and so does its gradient. Logits that
  start at exactly zero, as those of zero-initialised heads (DeiT's) do, get a gradient that is
  seven orders of magnitude too large, and an adaptive optimizer remembers it for thousands of
  steps. `Distillation` therefore passes the student's logits through `tame_gradient` first: no
  value changes, and no gradient of logits whose deviation is at least `GRADIENT_FLOOR`. Below, it
  is what it would be at that deviation. `standardize` by itself is exact; whoever calls it on the
  logits of a zero-initialised head should do the same.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError, unknown_name
from vitrellis.objectives.objective import Term
from vitrellis.objectives.precision import widen
from vitrellis.objectives.signals import Needs, Signals
from vitrellis.objectives.weights import WeightSchedule

GRADIENT_FLOOR = 0.1
"""Standard deviation of a row of logits under which `Distillation` limits the gradient."""

Reduction = Literal["batch", "batch_and_classes"]
Sigma = Literal["sample", "population"]

KINDS = ("soft", "hard")
REDUCTIONS = ("batch", "batch_and_classes")
SIGMAS = {"sample": 1, "population": 0}
"""What is subtracted from the number of classes."""
HEADS = ("class", "distillation")


def soft_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    reduction: Reduction = "batch",
) -> Tensor:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    Args:
        student_logits: `(B, K)`.
        teacher_logits: `(B, K)`. They get no gradient.
        temperature: Softens both sides (tau, T).
        reduction: "batch": sum over classes, mean over the batch, as in logit standardization.
            "batch_and_classes": mean over both, as in tiny-transformers, K times smaller.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ.
    """
    _check_shapes(student_logits, teacher_logits)
    student_log_probs = (widen(student_logits) / temperature).log_softmax(dim=-1)  # (B, K)
    teacher_log_probs = (widen(teacher_logits.detach()) / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, reduction="sum", log_target=True)
    counts = {"batch": len(student_logits), "batch_and_classes": student_logits.numel()}
    return divergence * (temperature**2 / counts[reduction])


def hard_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's favourite class as the label, batch mean.

    Args:
        student_logits: `(B, K)`.
        teacher_logits: `(B, K)`.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ.
    """
    _check_shapes(student_logits, teacher_logits)
    return F.cross_entropy(widen(student_logits), teacher_logits.argmax(dim=-1))


def standardize(logits: Tensor, *, sigma: Sigma = "sample", eps: float = 1e-7) -> Tensor:
    """Z-score each row, so that only the shape of the logits is left to imitate.

    The gradient flows through mean and deviation. It grows as the deviation shrinks, up to
    `1 / eps` for a row of equal logits: see `tame_gradient`. Of two classes only the order is left,
    which has no gradient: with K = 2, distil plain logits.

    Args:
        logits: `(B, K)`.
        sigma: "sample": the deviation with `K - 1`, as in the published code. "population": with
            `K`, as in the paper. It matters for few classes: for two, their ratio is 0.707.
        eps: Keeps a row of equal logits finite.

    Returns:
        `(B, K)`, mean 0 and standard deviation 1 over K.
    """
    logits = widen(logits)
    deviation = logits.std(dim=-1, keepdim=True, correction=SIGMAS[sigma])
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + eps)


def tame_gradient(
    logits: Tensor,
    *,
    sigma: Sigma = "sample",
    eps: float = 1e-7,
    floor: float = GRADIENT_FLOOR,
) -> Tensor:
    """The same logits; what `standardize` then sends back is limited for rows that hardly vary.

    Where the deviation is below `floor`, the gradient of the row is multiplied by
    `(deviation + eps) / floor`: standardization has divided it by `deviation + eps`. Its direction
    stays.

    Args:
        logits: `(B, K)`.
        sigma: As given to `standardize`.
        eps: As given to `standardize`.
        floor: The deviation from which on the gradient is exact.

    Returns:
        `(B, K)`, equal to `logits`.
    """
    logits = widen(logits)
    fixed = logits.detach()
    deviation = fixed.std(dim=-1, keepdim=True, correction=SIGMAS[sigma])
    share = ((deviation + eps) / floor).clamp(max=1)  # (B, 1)
    return fixed + share * (logits - fixed)


class Distillation(Term):
    """The student imitates the teacher's predictions.

    Args:
        kind: "soft": the teacher's probabilities. "hard": only its favourite class, where
            temperature and reduction have no influence.
        temperature: See `soft_distillation`.
        standardize: Z-score both sides' logits first. Not with "hard".
        sigma: See `standardize`.
        reduction: See `soft_distillation`.
        head: Which of the student's heads learns from the teacher.
        weight: A number, or a schedule over epochs.
        name: What the term is called in logs and checkpoints.

    Raises:
        UsageError: If a setting is unknown or out of range, or "hard" is to be standardized.
    """

    def __init__(
        self,
        *,
        kind: Literal["soft", "hard"] = "soft",
        temperature: float = 2.0,
        standardize: bool = False,
        sigma: Sigma = "sample",
        reduction: Reduction = "batch",
        head: Literal["class", "distillation"] = "class",
        weight: WeightSchedule | float = 1.0,
        name: str = "distillation",
    ) -> None:
        for setting, value, known in (
            ("kind", kind, KINDS),
            ("sigma", sigma, SIGMAS),
            ("reduction", reduction, REDUCTIONS),
            ("head", head, HEADS),
        ):
            if value not in known:
                raise unknown_name(f"{name}.{setting}", value, known)
        if not 0 < temperature < float("inf"):
            raise UsageError(f"{name}: temperature is {temperature}, it should be above 0")
        if kind == "hard" and standardize:
            raise UsageError(
                f"{name}: hard distillation takes the teacher's favourite class, which "
                "standardization cannot change. Use standardize=false, or kind=soft"
            )
        soft = f", T {temperature:g}, mean over {reduction.replace('_', ' ')}"
        super().__init__(
            name,
            weight=weight,
            needs=Needs(teacher_logits=True),
            settings=f"{kind}{soft if kind == 'soft' else ''}"
            f"{f', standardized by the {sigma} deviation' if standardize else ''}; {head} head",
        )
        self.kind = kind
        self.temperature = temperature
        self.standardize = standardize
        self.sigma: Sigma = sigma
        self.reduction: Reduction = reduction
        self.head = head

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        assert signals.teacher_logits is not None, f"{self.name} was given no teacher's logits"
        student_logits, teacher_logits = self._student_logits(signals), signals.teacher_logits
        if self.kind == "hard":
            return hard_distillation(student_logits, teacher_logits)
        if self.standardize:
            student_logits = tame_gradient(student_logits, sigma=self.sigma)
            student_logits = standardize(student_logits, sigma=self.sigma)
            teacher_logits = standardize(teacher_logits, sigma=self.sigma)
        return soft_distillation(
            student_logits, teacher_logits, temperature=self.temperature, reduction=self.reduction
        )

    def _student_logits(self, signals: Signals) -> Tensor:
        """`(B, K)` of the head that learns from the teacher."""
        if self.head == "class":
            return signals.logits
        if signals.distillation_logits is None:
            raise UsageError(
                f"{self.name}.head: this student has no distillation head. "
                "Use head=class, or a distilled model such as deit_tiny_distilled_patch16_224"
            )
        return signals.distillation_logits


def _check_shapes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise UsageError(
            f"distillation: logits are {tuple(student_logits.shape)} from the student and "
            f"{tuple(teacher_logits.shape)} from the teacher; both should be (batch, classes) of "
            "the same classes"
        )
