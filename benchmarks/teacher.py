"""What a teacher costs in training: not there, asked online, asked offline, and switched off.

A student of the demo, images per second of whole training steps. Every round trains each variant
anew, one after the other; the first epoch of each is warm-up, and the epochs after it are measured.

    python benchmarks/teacher.py [--guided demo-vit] [--rounds 3] [--epochs 4]
    python benchmarks/teacher.py --guided few-cifar100-vit data.root=images machine.threads=1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitrellis.assembly.launch import train
from vitrellis.recipe import load_recipe
from vitrellis.report.hardware import describe_hardware

VARIANTS = {
    "no teacher": [],
    "online": [],
    "online, `training.channels_last=true`": ["training.channels_last=true"],
    "online, and `teacher.precision=bfloat16`": [
        "training.channels_last=true",
        "teacher.precision=bfloat16",
    ],
    "offline": ["teacher.offline=true"],
    "online, after switch-off": [],
}
"""The changes to the recipe of each variant."""
SHORT_TEACHER = "teacher.overrides=[training.epochs=1, schedule.warmup_epochs=0]"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description="What a teacher costs in training.")
    parser.add_argument("--guided", default="demo", help="the recipe; RECIPE-alone has no teacher")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--epochs", type=int, default=4, help="of each run, at least 2")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for place, name in enumerate(VARIANTS):
                out = Path(folder) / f"round{number}-{place}"
                speeds[name].append(
                    images_per_second(
                        arguments.guided, name, arguments.epochs, arguments.changes, out
                    )
                )
    print(f"{describe_hardware()}; median of {arguments.rounds} rounds\n")
    print("| | images/s | against no teacher |")
    print("|---|---:|---:|")
    alone = speeds["no teacher"]
    for name, measured in speeds.items():
        ratios = [mine / without for mine, without in zip(measured, alone, strict=True)]
        print(
            f"| {name} | {statistics.median(measured):,.0f} | **{statistics.median(ratios):.2f}** "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def images_per_second(guided: str, name: str, epochs: int, more: Sequence[str], out: Path) -> float:
    """Of the epochs after the first."""
    changes = [*more, *VARIANTS[name], f"training.epochs={epochs}", f"training.eval_every={epochs}"]
    changes += ["schedule.warmup_epochs=0"]
    if name == "no teacher":
        recipe = f"{guided}-alone"
    else:
        recipe = guided
        changes.append(SHORT_TEACHER)
    if "switch-off" in name:
        for term, section in load_recipe(guided).objective.guided_terms.items():
            changes.append(f"objective.{term}.weight={{value: {section.weight}, off_after: 1}}")
    finished = train(load_recipe(recipe, changes), out=out)
    rows = finished.run.read_metrics()
    return statistics.median(row.images_per_second for row in rows[1:])


if __name__ == "__main__":
    main()
