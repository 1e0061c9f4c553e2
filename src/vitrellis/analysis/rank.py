"""The number of dimensions that the features of a block use.

DeiT-LT (CVPR 2024, https://arxiv.org/abs/2404.02900) looks at the rank of a student's features: a
teacher for long tails leaves features of low rank, which generalise from few images. The effective
rank is that of Roy and Vetterli, "The effective rank", EUSIPCO 2007: the exponential of the entropy
of the singular values, taken as shares of their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """The effective rank: 1 if all images lie in one direction, at most the smaller of N and C.

    Args:
        features: `(N, C)`; their mean is subtracted.
    """
    values = torch.linalg.svdvals(features.double() - features.double().mean(dim=0))
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def components_for(features: Tensor, share: float = 0.99) -> int:
    """The number of principal components that hold a share of the variance.

    Args:
        features: `(N, C)`; their mean is subtracted.
        share: The share of the variance, in (0, 1].
    """
    variances = torch.linalg.svdvals(features.double() - features.double().mean(dim=0)).square()
    reached = variances.cumsum(dim=0) / variances.sum()
    return int((reached < share - 1e-12).sum()) + 1
