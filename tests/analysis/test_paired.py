"""Paired differences against scipy's own paired test, and closed forms."""

from __future__ import annotations

import pytest
from scipy import stats

from vitrellis.analysis.paired import paired_difference

MINE = [83.1, 84.0, 82.7, 85.2]
OTHERS = [82.0, 83.5, 82.9, 83.0]


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_that_of_the_paired_t_test(confidence: float) -> None:
    gain = paired_difference(MINE, OTHERS, confidence=confidence)
    expected = stats.ttest_rel(MINE, OTHERS).confidence_interval(confidence)
    assert gain.interval == pytest.approx((expected.low, expected.high))
    assert gain.mean == pytest.approx(sum(MINE) / 4 - sum(OTHERS) / 4)
    assert gain.each == pytest.approx((1.1, 0.5, -0.2, 2.2))
    assert gain.wins == 3


def test_folds_widen_the_interval_as_nadeau_and_bengio_say() -> None:
    plain = paired_difference(MINE, OTHERS)
    of_folds = paired_difference(MINE, OTHERS, test_share=1 / 3)
    assert plain.interval is not None
    assert of_folds.interval is not None
    widening = (of_folds.interval[1] - of_folds.mean) / (plain.interval[1] - plain.mean)
    assert widening == pytest.approx(((1 / 4 + 1 / 3) / (1 / 4)) ** 0.5)


def test_one_pair_has_no_interval() -> None:
    assert paired_difference([2.0], [1.5]).interval is None


def test_pairs_must_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])
