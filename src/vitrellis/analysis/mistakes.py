"""Images that a model gets wrong, the most confident mistakes first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mistake:
    """An image that is taken for another class."""

    index: int
    """The number of the image."""
    label: int
    """Its class."""
    predicted: int
    """The class that it is taken for."""
    probability: float
    """The probability of the predicted class."""
    label_probability: float
    """The probability of its own class."""


def most_confident_mistakes(probabilities: Tensor, labels: Tensor, count: int) -> list[Mistake]:
    """The images that are wrong with the highest probability.

    Args:
        probabilities: `(N, K)`.
        labels: `(N,)` int64.
        count: The largest number of images.

    Returns:
        In falling order of the probability; of equal ones, the first image first.
    """
    top, predicted = probabilities.max(dim=1)
    wrong = torch.nonzero(predicted != labels).flatten()
    order = wrong[top[wrong].argsort(descending=True, stable=True)][:count].tolist()
    return [
        Mistake(
            index=index,
            label=int(labels[index]),
            predicted=int(predicted[index]),
            probability=float(top[index]),
            label_probability=float(probabilities[index, labels[index]]),
        )
        for index in order
    ]
