"""Sharpness-aware minimization: the gradient is taken where the loss is worst nearby.

Paper: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
ICLR 2021, https://arxiv.org/abs/2010.01412, equations 2 and 3 and algorithm 1.

Original code: github.com/google-research/sam; for long tails github.com/val-iisc/Saddle-LongTail,
where rho changes over the epochs.

How we differ: on several devices the way uphill is that of the global batch, the same for all,
where the original lets each device go its own way. Both passes are of one function: dropout masks
and paths are the same in them (the original draws anew), and both begin with the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Gradient(Protocol):
    """Leaves a gradient in the parameters, for the optimizer to act on."""

    def __call__(self, backward: Callable[[], T], epoch: int) -> T:
        """What `backward` returned at the weights as they are.

        Args:
            backward: Adds the gradient of the batch's loss, at the weights as they are when it is
                called. Called a second time, it draws the same random numbers.
            epoch: 0-based.
        """


def plain_gradient(backward: Callable[[], T], epoch: int) -> T:
    """The gradient at the weights as they are."""
    del epoch
    return backward()


class SharpnessAware:
    """The gradient at `w + rho * g / |g|`, where `g` is the gradient at the weights `w`.

    There is nothing to checkpoint: the weights are put back, bit by bit, before the optimizer acts
    on what is left in `grad`. Running statistics (of batch norms, say) are those of the first pass:
    all buffers are put back before the second one, and its changes to them are undone. While rho
    is 0, there is no second pass.

    Args:
        modules: All that takes part in the backward pass, first what is trained. Of the others,
            such as a teacher in train mode, only the buffers matter.
        rho: Pairs of an epoch and the radius from then on; the first is for epoch 0.
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
    """Adds `rho * g / |g|`, the norm being over all of them, and forgets the gradient.

    The direction is the same if `g` is scaled, as in half precision. Where scaling went too far,
    nothing is moved: the second pass overflows as well, and the step is left out.
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
