"""How far apart two ways of training are, judged by runs in pairs of equal seed and fold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class PairedDifference:
    """What one way gains over another.

    Attributes:
        each: Of every pair.
        mean: Over the pairs.
        interval: Lowest and highest mean that the pairs are in keeping with; None for one pair.
    """

    each: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None

    @property
    def wins(self) -> int:
        """Pairs in which there is a gain."""
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
        figures: One for each pair.
        others: Likewise, in the same order.
        confidence: Of the interval.
        test_share: Of cross-validation, how many images are tested on for each that is trained on.
            Folds share most of their training images, so that their figures vary less than those
            of independent runs would: the variance is corrected for that (Nadeau and Bengio,
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
