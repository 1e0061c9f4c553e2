"""The trade-off that `vitrellis prune` found: a table, JSON, a picture, and an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitrellis.errors import VitrellisError

if TYPE_CHECKING:
    from vitrellis.analysis.cost import Precision
    from vitrellis.experiments.keep_rate_search import Trials, Tried


def report_trials(
    run: Path,
    trials: Trials,
    chosen: Tried | None,
    batch_size: int,
    precision: Precision,
    *,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Prints the trade-off as a table or JSON, and draws it.

    Args:
        run: The run, as the user named it.
        trials: What was tried.
        chosen: The one that is written; None for none.
        batch_size: The number of images in a batch that was timed.
        precision: That of the arithmetic.
        plot: The PNG file; None for no picture.
        as_json: Whether to print JSON.
    """
    import statistics

    from vitrellis.analysis.pruning_gain import PruningGain
    from vitrellis.cli.console import console, new_table, print_json, print_table
    from vitrellis.experiments.keep_rate_search import in_order
    from vitrellis.report.hardware import describe_hardware

    rows = in_order(trials.done)
    if plot is not None:
        from vitrellis.report.trade_off import Point, draw_trade_off

        points = [
            Point(row.reduction.method if row.reduction else None, row.ratio, row.top1, _rate(row))
            for row in rows
        ]
        draw_trade_off(
            points, plot, chosen=None if chosen is None else rows.index(chosen), title=str(run)
        )
    if as_json:
        print_json(
            {
                "run": str(run),
                "hardware": describe_hardware(),
                "batch_size": batch_size,
                "precision": precision,
                "rows": [row.to_json() for row in rows],
                "chosen": None if chosen is None else chosen.to_json(),
            }
        )
        return
    console.print(
        f"{describe_hardware()}; batches of {batch_size}, {precision}, validation images",
        soft_wrap=True,
        highlight=False,
    )
    table = new_table(
        "tokens", ">keep rate", ">MACs", ">top-1 %", ">balanced %", ">images/s", ">speed-up", ""
    )
    gains = [row.gain for row in rows if row.gain is not None]
    for row in rows:
        cells = cells_of(row)
        if row.gain is None:
            cells[5] = f"{statistics.median(gain.before for gain in gains):,.0f}"
        table.add_row(*cells, "chosen" if row is chosen else "")
    print_table(table)
    judged = (
        chosen.gain if chosen is not None and chosen.gain else max(gains, key=lambda g: g.ratio)
    )
    console.print(f"{PruningGain(judged).verdict()}.", highlight=False, soft_wrap=True)


def cells_of(tried: Tried) -> list[str]:
    """A row of the table, without the last column."""
    how = tried.reduction
    words = "all"
    if how is not None:
        words = "merged (tome)" if how.method == "tome" else "left out (evit)"
        several = "s" if len(how.layers) > 1 else ""
        words += f", layer{several} {','.join(map(str, how.layers))}"
        words += ", dropped" if how.method == "evit" and not how.fuse else ""
    speed = "" if tried.gain is None else f"{tried.gain.after:,.0f}"
    return [
        words,
        _rate(tried),
        f"{tried.macs / 1e6:,.0f} M",
        f"{100 * tried.top1:.1f}",
        f"{100 * tried.balanced_accuracy:.1f}",
        speed,
        f"{tried.ratio:.2f}",
    ]


def _rate(tried: Tried) -> str:
    """The keep rate in a few letters; the range of those of r tokens per layer."""
    how = tried.reduction
    if how is None:
        return "1"
    if isinstance(how.keep_rate, float):
        return f"{how.keep_rate:g}"
    rates = [how.keep_rate[layer] for layer in how.layers]
    return f"{max(rates):.2f} to {min(rates):.2f}"


def unreachable(run: Path, trials: Trials, target: float) -> VitrellisError:
    """The error if no keep rate reaches a speed-up, with the best that was reached."""
    best = trials.fastest()
    if best.reduction is None:
        reached = "no keep rate is faster than all tokens"
    else:
        reached = (
            f"the fastest is {best.ratio:.2f} times, by {best.reduction.method} with keep rate "
            f"{_rate(best)}, at {100 * best.top1:.1f} % (all tokens: "
            f"{100 * trials.done[0].top1:.1f} %)"
        )
    return VitrellisError(
        f"{run}: no keep rate that was tried makes it {target:g} times as fast on this machine; "
        f"{reached}. Nothing was written. Give a smaller --target-speedup, or more or earlier "
        "--layers"
    )
