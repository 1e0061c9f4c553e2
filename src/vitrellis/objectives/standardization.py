"""Logit standardization: only the shape of the logits is left to imitate.

Paper: Logit Standardization in Knowledge Distillation (CVPR 2024, https://arxiv.org/abs/2403.01427).
Original code: https://github.com/sunshangquan/logit-standardization-KD

How we differ: standardization divides by the logits' standard deviation, and so does its gradient.
Logits that start at exactly zero, as those of zero-initialised heads (DeiT's) do, get a gradient
that is seven orders of magnitude too large, and an adaptive optimizer remembers it for thousands of
steps. Terms therefore pass the student's logits through `limit_gradient` first: no value changes,
and no gradient of logits whose deviation is at least `GRADIENT_FLOOR`. Below that, the gradient is
the one at that deviation. `standardize` by itself is exact; call `limit_gradient` first wherever
you standardize the logits of a zero-initialised head.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vitrellis.objectives.precision import to_float32

GRADIENT_FLOOR = 0.1
"""The standard deviation of a row of logits below which `limit_gradient` limits its gradient."""

Standardize = Literal[True, False, "auto"]
"""Whether logits are z-scored; "auto" does so unless there are two classes, whose z-scores are
constant."""

Sigma = Literal["sample", "population"]
SIGMAS = {"sample": 1, "population": 0}
"""The number that is subtracted from the number of classes in the divisor of the variance."""


def standardize(logits: Tensor, *, sigma: Sigma = "sample", eps: float = 1e-7) -> Tensor:
    """Z-score each row, so that only the shape of the logits is left to imitate.

    The gradient flows through mean and deviation. It grows as the deviation shrinks, up to
    `1 / eps` for a row of equal logits: see `limit_gradient`. Of two classes only the order is
    left, which has no gradient: with K = 2, distil plain logits.

    Args:
        logits: `(B, K)`.
        sigma: "sample": the deviation with `K - 1`, as in the published code. "population": with
            `K`, as in the paper. It matters for few classes: for two, their ratio is 0.707.
        eps: Keeps a row of equal logits finite.

    Returns:
        `(B, K)`, mean 0 and standard deviation 1 over K.
    """
    logits = to_float32(logits)
    deviation = logits.std(dim=-1, keepdim=True, correction=SIGMAS[sigma])
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + eps)


def is_standardized(standardize: Standardize, num_classes: int) -> bool:
    """Whether the logits of so many classes are z-scored."""
    return num_classes > 2 if standardize == "auto" else standardize


def limit_gradient(
    logits: Tensor,
    *,
    sigma: Sigma = "sample",
    eps: float = 1e-7,
    floor: float = GRADIENT_FLOOR,
) -> Tensor:
    """The same logits, with a limit on the gradient from `standardize` for rows that hardly vary.

    Where the deviation is below `floor`, the gradient of the row is multiplied by
    `(deviation + eps) / floor`: standardization has divided it by `deviation + eps`. Its direction
    stays.

    Args:
        logits: `(B, K)`.
        sigma: The same as for `standardize`.
        eps: The same as for `standardize`.
        floor: The deviation from which on the gradient is exact.

    Returns:
        `(B, K)`, equal to `logits`.
    """
    logits = to_float32(logits)
    fixed = logits.detach()
    deviation = fixed.std(dim=-1, keepdim=True, correction=SIGMAS[sigma])
    share = ((deviation + eps) / floor).clamp(max=1)  # (B, 1)
    return fixed + share * (logits - fixed)
