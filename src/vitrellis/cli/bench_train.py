"""`vitrellis bench --train`: where the time of a training step goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def bench_train(
    recipe: str,
    overrides: Sequence[str],
    *,
    steps: int,
    trace: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Times the parts of a recipe's training steps, and prints them.

    Args:
        recipe: The recipe's name or path.
        overrides: `key=value` changes to it.
        steps: The number of steps.
        trace: The file for the trace of torch.profiler; None for no trace.
        as_json: Whether to print JSON.
        quiet: Whether no progress is wanted.
    """
    from vitrellis.assembly.step_parts import PARTS, measure_step, medians
    from vitrellis.cli.console import console, new_table, print_json, print_table, progress_console
    from vitrellis.recipe import load_recipe
    from vitrellis.report.hardware import describe_hardware

    loaded = load_recipe(recipe, overrides)
    with progress_console(quiet=quiet).status(f"{loaded.name}: {steps} steps"):
        rows = measure_step(loaded, steps=steps, trace=trace)
    parts = medians(rows)
    whole = sum(parts.values())
    images = loaded.training.batch_size
    if as_json:
        milliseconds = {part: 1000 * parts[part] for part in PARTS}
        print_json({"hardware": describe_hardware(), "batch_size": images, "ms": milliseconds})
        return
    training = loaded.training
    compiled = ", compiled" if training.compile else ""
    console.print(
        f"{describe_hardware()}; {loaded.name}, batch {images}, {training.precision}{compiled}",
        highlight=False,
        soft_wrap=True,
    )
    table = new_table("part of a step", ">ms", ">share %")
    for part in PARTS:
        table.add_row(part, f"{1000 * parts[part]:.1f}", f"{100 * parts[part] / whole:.0f}")
    table.add_row("together", f"{1000 * whole:.1f}", f"{images / whole:,.0f} img/s")
    print_table(table)
    if trace is not None:
        console.print(f"Trace: {trace} (chrome://tracing, or https://ui.perfetto.dev)")
