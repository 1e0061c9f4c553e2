"""Class-balanced and square-root sampling: the image that each slot of an epoch shows.

Kang et al., "Decoupling representation and classifier for long-tailed recognition", ICLR 2020,
https://arxiv.org/abs/1910.09217.

How we differ from the usual samplers: slot j of epoch e is a function of (seed, e, j), so that the
number of processes, of workers and of restarts changes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vitrellis.data.randomness import integers, sample_keys, uniform

Sampler = Literal["uniform", "class_balanced", "square_root"]

_POWERS = {"uniform": 1.0, "class_balanced": 0.0, "square_root": 0.5}


class ClassSampler:
    """Draws a class, then one of its images; with replacement.

    Args:
        labels: `(N,)` int64 of the training images.
        sampler: "class_balanced" draws every class that has images as often as any other,
            "square_root" in proportion to the root of its size, "uniform" to its size.
    """

    def __init__(self, labels: Tensor, sampler: Sampler) -> None:
        labels = labels.cpu()
        _, counts = labels.unique(return_counts=True)  # in the order of their numbers
        self._by_class = labels.argsort(stable=True)
        self._starts = counts.cumsum(0) - counts
        self._counts = counts
        shares = counts.double() ** _POWERS[sampler]
        self._borders = (shares / shares.sum()).cumsum(0)[:-1]

    def draw(self, keys: Tensor, stream: str) -> Tensor:
        """An image for each key.

        Args:
            keys: `(B,)` int64, on the CPU.
            stream: The name of the draw; streams are independent of each other.

        Returns:
            `(B,)` int64 numbers of images.
        """
        where = uniform(keys, f"{stream}-class", 1).squeeze(1).double()
        classes = torch.searchsorted(self._borders, where, right=True)  # (B,)
        counts = self._counts[classes]
        within = integers(keys, f"{stream}-image", 1, below=counts[:, None]).squeeze(1)
        return self._by_class[self._starts[classes] + within]

    def epoch_order(self, seed: int, epoch: int, repeats: int = 1) -> tuple[Tensor, Tensor]:
        """The order of an epoch, in place of `vitrellis.data.randomness.epoch_order`.

        Args:
            seed: The seed of the run.
            epoch: 0-based.
            repeats: Views of the same draw, one after the other.

        Returns:
            Image indices and view numbers, both `(N,)` int64 on the CPU. An image that is drawn
            again is another view of it.
        """
        positions = torch.arange(len(self._by_class))
        slots = sample_keys(seed, epoch, positions // repeats)
        return self.draw(slots, "sampler"), positions
