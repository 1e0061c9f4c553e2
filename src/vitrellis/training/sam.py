"""Sharpness-aware minimization: the gradient is taken where the loss is worst nearby.

Paper: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
ICLR 2021, https://arxiv.org/abs/2010.01412, equations 2 and 3 and algorithm 1.

Original code: github.com/google-research/sam; for long tails github.com/val-iisc/Saddle-LongTail,
where rho changes over the epochs.

How we differ: on several devices the ascent direction is that of the global batch, the same for
all; in the original each device has its own. Both passes compute the same function: they have the
same dropout masks and paths (the original draws new ones), and begin with the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Gradient(Protocol):
    """Computes the gradient that the optimizer applies, and leaves it in the parameters."""

    def __call__(self, backward: Callable[[], T], epoch: int) -> T:
        """Computes the gradient.

        Args:
            backward: Adds the gradient of the batch's loss at the current weights. A second call
                draws the same random numbers.
            epoch: The number of the epoch, 0-based.

        Returns:
            The result of `backward` at the weights before the step.
        """


def plain_gradient(backward: Callable[[], T], epoch: int) -> T:
    """Computes the gradient at the current weights."""
    del epoch
    return backward()


class SharpnessAware:
    """The gradient at `w + rho * g / |g|`, where `g` is the gradient at the weights `w`.

    There is no state to checkpoint: the weights are restored, bit by bit, before the optimizer
    applies the gradient in `grad`. Running statistics (of batch norms, for example) are those of
    the first pass: all buffers are restored before the second pass, whose changes to them are
    undone. While rho is 0, there is no second pass.

    Args:
        modules: The modules that take part in the backward pass. A frozen one, such as a teacher in
            train mode, takes part with its buffers only.
        rho: Pairs of an epoch and the radius from that epoch on; the first is for epoch 0.
    """

    def __init__(self, modules: Sequence[nn.Module], rho: Sequence[tuple[int, float]]) -> None:
        self._parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._rho = tuple(rho)

    def __call__(self, backward: Callable[[], T], epoch: int) -> T:
        """See `Gradient`."""
        rho = self.rho(epoch)
        if rho == 0:
            return backward()
        before = _copies(self._buffers)
        first = backward()
        after = _copies(self._buffers)
        moved = [p for p in self._parameters if p.grad is not None]
        weights = _copies(moved)
        _move_uphill(moved, rho)
        _put_back(self._buffers, before)
        backward()
        _put_back(moved, weights)
        _put_back(self._buffers, after)
        return first

    def rho(self, epoch: int) -> float:
        """The radius in an epoch, 0-based."""
        return next(rho for start, rho in reversed(self._rho) if start <= epoch)


@torch.no_grad()
def _move_uphill(parameters: Sequence[nn.Parameter], rho: float) -> None:
    """Adds `rho * g / |g|`, with the norm over all parameters, and drops the gradient.

    The direction does not depend on the scale of `g`, which half precision changes. If the scaled
    gradient overflows, nothing is moved: the second pass overflows as well, and the scaler skips
    the step.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if norm.isfinite():
        torch._foreach_add_(list(parameters), torch._foreach_mul(gradients, rho / (norm + 1e-12)))
    for parameter in parameters:
        parameter.grad = None


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put_back(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if tensors:
        torch._foreach_copy_(list(tensors), list(values))
