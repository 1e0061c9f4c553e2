"""The difference between two ways of training, from runs in pairs of equal seed and fold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class PairedDifference:
    """The gain of one way of training over another.

    Attributes:
        each: The gain of every pair.
        mean: The mean gain over the pairs.
        interval: The confidence interval of the mean; None for one pair.
    """

    each: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None

    @property
    def wins(self) -> int:
        """The number of pairs with a gain."""
        return sum(gain > 0 for gain in self.each)


def paired_difference(
    figures: Sequence[float],
    others: Sequence[float],
    *,
    confidence: float = 0.95,
    test_share: float | None = None,
) -> PairedDifference:
    """The mean of `figures - others`, with Student's interval.

    Args:
        figures: A figure for each pair.
        others: The other figure of each pair, in the same order.
        confidence: The confidence of the interval.
        test_share: In cross-validation, the number of test images for each training image. Folds
            share most of their training images, so that their figures vary less than those of
            independent runs would: the variance is corrected for that (Nadeau and Bengio,
            "Inference for the Generalization Error", Machine Learning 52, 2003, eq. 9).
    """
    each = tuple(mine - other for mine, other in zip(figures, others, strict=True))
    mean = statistics.fmean(each)
    count = len(each)
    if count < 2:
        return PairedDifference(each, mean, None)
    share = 1 / count + (0.0 if test_share is None else test_share)
    reach = math.sqrt(statistics.variance(each) * share)
    reach *= float(stats.t.ppf((1 + confidence) / 2, df=count - 1))
    return PairedDifference(each, mean, (mean - reach, mean + reach))
