"""Learning from labels where some classes have many images and most have few.

Every loss here is defined for a label, and for class probabilities by one rule: **an image counts
as its parts**. With `t_k` the share of class k in an image's target, `w_k` the weight of the class,
and `l_k` the loss that the image would have with the label k, a batch costs

    sum of t_k * w_k * l_k over images and classes / sum of t_k * w_k over images and classes

So a mixed image has the margin (LDAM) or the focus (focal loss) of each of its classes in
proportion to their shares. With labels, the loss is torch's weighted cross-entropy, which DeiT-LT
uses. Torch itself divides by the number of images if targets are probabilities; we divide by the
weights.

Papers: effective numbers, Cui et al., CVPR 2019 (https://arxiv.org/abs/1901.05555); LDAM, Cao et
al., NeurIPS 2019 (https://arxiv.org/abs/1906.07413); balanced softmax, Ren et al., NeurIPS 2020
(https://arxiv.org/abs/2007.10740); logit adjustment, Menon et al., ICLR 2021
(https://arxiv.org/abs/2007.07314); focal loss, Lin et al., ICCV 2017
(https://arxiv.org/abs/1708.02002).

How we differ from the published code: labels may be mixed or smoothed (LDAM's and DeiT-LT's code
know labels only, or guess); classes without an image are refused and not divided by; the chance of
the other classes is computed from their logits, so that float32 does not lose it near certainty.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.precision import to_float32


def effective_number_weights(class_counts: Tensor, *, beta: float = 0.9999) -> Tensor:
    """`(1 - beta) / (1 - beta^n)` for a class of n images, scaled to mean 1.

    With beta 0 all classes weigh the same; towards 1 they weigh the inverse of their size.

    Args:
        class_counts: `(K,)` training images of each class.
        beta: In [0, 1).

    Returns:
        `(K,)` float64.

    Raises:
        UsageError: If `beta` is out of range, or a class has no image.
    """
    if not 0 <= beta < 1:
        raise UsageError(f"class weights: beta is {beta}, it should be in [0, 1), such as 0.9999")
    counts = check_counts("class weights", class_counts)
    log_beta = torch.tensor(beta, dtype=torch.float64, device=counts.device).log()
    weights = -1 / torch.expm1(counts * log_beta)
    return weights / weights.mean()


def ldam_margins(class_counts: Tensor, *, largest: float = 0.5) -> Tensor:
    """`n^(-1/4)` for a class of n images, scaled so that the rarest class has the largest margin.

    Args:
        class_counts: `(K,)` training images of each class.
        largest: The margin of the rarest class.

    Returns:
        `(K,)` float64.

    Raises:
        UsageError: If a class has no image.
    """
    margins = check_counts("LDAM", class_counts) ** -0.25
    return margins * (largest / margins.max())


def log_shares(class_counts: Tensor) -> Tensor:
    """The logarithm of each class's share of the training images, its prior.

    Args:
        class_counts: `(K,)` training images of each class.

    Returns:
        `(K,)` float64.

    Raises:
        UsageError: If a class has no image.
    """
    counts = check_counts("logit adjustment", class_counts)
    return (counts / counts.sum()).log()


def ldam(
    logits: Tensor,
    targets: Tensor,
    *,
    margins: Tensor,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `scale * logits`, after the label's margin is subtracted from its logit.

    It is meant for logits that are cosines, as those of a classifier with `cosine: true`.

    Args:
        logits: `(B, K)`, K at least 2.
        targets: `(B, K)` class probabilities.
        margins: `(K,)`, see `ldam_margins`.
        scale: s in the paper.
        class_weights: `(K,)`, None for equal ones.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ, or there is one class only.
    """
    logits = _checked("LDAM", logits, targets)
    others = _log_sum_of_others(scale * logits)  # (B, K)
    losses = F.softplus(others - scale * (logits - margins.to(logits.dtype)))
    return weighted_mean(losses, targets, class_weights)


def logit_adjustment(
    logits: Tensor,
    targets: Tensor,
    *,
    log_prior: Tensor,
    tau: float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `logits + tau * log_prior`; predictions use the bare logits.

    Args:
        logits: `(B, K)`, K at least 2.
        targets: `(B, K)` class probabilities.
        log_prior: `(K,)`, see `log_shares`.
        tau: The strength of the compensation for class frequencies; 1 is balanced softmax.
        class_weights: `(K,)`, None for equal ones.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ, or there is one class only.
    """
    logits = _checked("logit adjustment", logits, targets)
    losses = -(logits + tau * log_prior.to(logits.dtype)).log_softmax(dim=-1)
    return weighted_mean(losses, targets, class_weights)


def focal(
    logits: Tensor, targets: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None
) -> Tensor:
    """`-(1 - p)^gamma * log(p)`, p the probability of the label: sure images count less.

    Args:
        logits: `(B, K)`, K at least 2.
        targets: `(B, K)` class probabilities.
        gamma: The exponent; 0 gives cross-entropy.
        class_weights: `(K,)`, None for equal ones (alpha in the paper).

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ, or there is one class only.
    """
    logits = _checked("focal loss", logits, targets)
    log_wrong = _log_sum_of_others(logits) - logits.logsumexp(dim=-1, keepdim=True)  # (B, K)
    losses = -(gamma * log_wrong).exp() * logits.log_softmax(dim=-1)
    return weighted_mean(losses, targets, class_weights)


def weighted_mean(losses: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """The mean of losses, in which an image counts as its parts, each with its class's weight.

    Args:
        losses: `(B, K)` losses that each image would have with each class as its label.
        targets: `(B, K)` class probabilities.
        class_weights: `(K,)`, None for equal ones.

    Returns:
        A scalar: `sum(t * w * l) / sum(t * w)`.
    """
    shares = targets.to(losses.dtype)
    if class_weights is not None:
        shares = shares * class_weights.to(losses.dtype)
    return (shares * losses).sum() / shares.sum()


def check_counts(name: str, class_counts: Tensor) -> Tensor:
    """The counts as float64, each at least 1.

    Raises:
        UsageError: If classes have no image; they are named.
    """
    empty = torch.nonzero(class_counts < 1).flatten().tolist()
    if empty:
        raise UsageError(
            f"{name}: there is no training image of class {', '.join(map(str, empty))} (counted "
            "from 0), so it is not known how rare it is. Give every class an image, or leave it out"
        )
    return class_counts.double()


def _checked(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape != targets.shape or logits.ndim != 2 or logits.shape[1] < 2:
        raise UsageError(
            f"{name}: logits are {tuple(logits.shape)} and targets {tuple(targets.shape)}; both "
            "should be (batch, classes) of at least two classes"
        )
    return to_float32(logits)


def _log_sum_of_others(logits: Tensor) -> Tensor:
    """`log(sum of exp(logits_j) over j other than k)` for every class k, `(B, K)`.

    It is the sum minus one summand, except for the largest, which might be nearly all of the sum.
    """
    largest = logits.argmax(dim=-1, keepdim=True)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, largest, value=True)
    without = logits.masked_fill(is_largest, -torch.inf).logsumexp(dim=-1, keepdim=True)  # (B, 1)
    total = logits.logsumexp(dim=-1, keepdim=True)  # (B, 1)
    probs = (logits - total).exp().masked_fill(is_largest, 0.0)  # the others', at most a half
    return torch.where(is_largest, without, total + torch.log1p(-probs))
