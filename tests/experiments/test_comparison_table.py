"""Tables and words from measured rows."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from vitrellis.experiments.comparison import Measured
from vitrellis.experiments.comparison_table import (
    difference,
    fill_groups,
    fill_table,
    in_points,
    in_words,
    ways_of_grouping,
)
from vitrellis.experiments.demonstration import verdict


def row(arm: str, unit: str, top1: float, role: str = "student") -> Measured:
    return Measured(
        arm=arm,
        role=role,
        unit=unit,
        epochs=10,
        figures={"top1": top1},
        split="test",
        val_top1=0.5,
        seconds=4.0,
        images_per_second=1234.5,
        run=f"runs/{unit}/{arm}",
    )


ROWS = [
    row("DHVT alone", "seed0", 0.80),
    row("DHVT alone", "seed1", 0.82),
    row("DHVT guided", "seed0", 0.83),
    row("DHVT guided", "seed1", 0.83),
]


def printed(rows: list[Measured], baseline: str | None) -> list[str]:
    table = Table(box=None)
    fill_table(table, rows, metric="top1", baseline=baseline, folds=None)
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def grouped(arm: str, unit: str, head: float, tail: float | None) -> Measured:
    figures = {"head": head} | ({} if tail is None else {"tail": tail})
    return replace(
        row(arm, unit, 0.5),
        figures={"top1": 0.5, "balanced_accuracy": (head + (tail or 0)) / 2},
        groups={"training images": figures},
    )


def test_head_and_tail_have_a_table_of_their_own() -> None:
    rows = [grouped("mine", "seed0", 0.8, 0.2), grouped("mine", "seed1", 0.9, None)]
    rows.append(row("no tail", "seed0", 0.7))
    assert ways_of_grouping(rows) == ["training images"]
    assert ways_of_grouping(ROWS) == []
    table = Table(box=None)
    fill_groups(table, rows, "training images")
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert lines == [
        "test accuracy %, classes by training images all images all classes head mid tail",
        "mine 50.0 ± 0.0 47.5 ± 3.5 85.0 ± 7.1 - 20.0",
    ]


def test_the_table_has_mean_spread_and_paired_gain() -> None:
    lines = printed(ROWS, "DHVT alone")
    assert lines[0].startswith("test accuracy % (mean ± std) gain over DHVT alone (95 % interval)")
    assert lines[1] == "DHVT alone 81.0 ± 1.4 10 4.0 1,234"
    # t with one degree of freedom: 12.71 standard errors of 1
    assert lines[2] == "DHVT guided 83.0 ± 0.0 +2.0 (-10.7 to +14.7) 10 4.0 1,234"


def test_one_unit_has_no_spread() -> None:
    lines = printed([ROWS[0], ROWS[2]], "DHVT alone")
    assert lines[0].startswith("test accuracy % gain over DHVT alone epochs")
    assert lines[2] == "DHVT guided 83.0 +3.0 10 4.0 1,234"


def test_pairs_are_matched_by_unit_whatever_their_order() -> None:
    gain = difference(
        [ROWS[3], ROWS[0], ROWS[2], ROWS[1]], "DHVT guided", "DHVT alone", "top1", None
    )
    assert in_words(gain) == "+2.0 points on average (+1.0, +3.0), ahead in 2 of 2"
    assert in_points(gain) == "+2.0 (-10.7 to +14.7)"


def test_a_claim_that_does_not_hold_is_withdrawn() -> None:
    worse = [row("DHVT alone", "seed0", 0.84), row("DHVT guided", "seed0", 0.83)]
    assert verdict(worse) == [
        "The DHVT with guidance does not beat itself alone, at equal epochs: -1.0 points.",
        "One seed is an anecdote: `vitrellis demo --seeds 3` gives mean and spread.",
    ]
    assert verdict(ROWS) == [
        "The DHVT with guidance beats itself alone, at equal epochs: +2.0 points on average "
        "(+3.0, +1.0), ahead in 2 of 2."
    ]
