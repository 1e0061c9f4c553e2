"""Whether a term teaches the student anything: its gradient at the student's outputs.

A term can be without effect for reasons that no setting shows: a temperature at which all
probabilities are equal in float32, an output that it never reads, maps that are zero everywhere.
The gradients of a batch show it, and cost little, because they end at the student's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

ROUNDING = torch.finfo(torch.float32).eps
"""The share of the gradient of all terms together below which one of them is lost in rounding."""
HALF_SCALE = 2.0**15
"""A factor for gradients in float16, which would be zero although they are not."""


def silent_terms(weighted: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """The terms that teach the student nothing, or no number, in this batch.

    Args:
        weighted: The values of terms times their weights, scalars, by name; their graph is kept.
        outputs: Logits and maps of the student, of any shape, none computed from another.

    Returns:
        "zero" or "not finite" by the name of the term; terms with a gradient are left out.
    """
    gradients = {name: _gradients(value, outputs) for name, value in weighted.items()}
    totals = [
        torch.stack([of_term[i].nan_to_num(0.0, 0.0, 0.0) for of_term in gradients.values()])
        .sum(dim=0)
        .abs()
        .max()
        for i in range(len(outputs))
    ]
    faults = {}
    for name, of_term in gradients.items():
        sizes = [gradient.abs().max() for gradient in of_term]
        if not all(bool(size.isfinite()) for size in sizes):
            faults[name] = "not finite"
        elif all(bool(s <= ROUNDING * t) for s, t in zip(sizes, totals, strict=True)):
            is_half = any(output.dtype == torch.float16 for output in outputs)
            scaled = _gradients(weighted[name] * HALF_SCALE, outputs) if is_half else of_term
            if not (is_half and any(bool(gradient.any()) for gradient in scaled)):
                faults[name] = "zero"
    return faults


def _gradients(value: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """One for each output, in its shape; zero where the value does not depend on it."""
    if not value.requires_grad:
        return [torch.zeros_like(output) for output in outputs]
    return list(
        torch.autograd.grad(
            value, list(outputs), retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
