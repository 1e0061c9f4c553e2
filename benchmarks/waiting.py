"""The share of training that is spent waiting for images, for packaged recipes.

    python benchmarks/waiting.py demo-alone demo-teacher
    python benchmarks/waiting.py photos-alone photos-teacher --set data.root=FOLDER

Each recipe is trained for a few epochs of some of its images in a temporary folder, by the command
line, in a process of its own. The share is that of the last epoch, from `metrics.jsonl`: the time
in which no step is computed because its batch is not there yet, on a CPU with the augmentation.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import EpochRow

QUICK = ("schedule.warmup_epochs=0",)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Waiting for images, recipe by recipe.")
    parser.add_argument("recipes", nargs="+", help="names of packaged recipes, without teachers")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="words")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=640, help="of each training split")
    arguments = parser.parse_args()
    print(f"{describe_hardware()}\n")
    print("| recipe | images/s | waiting for images |\n|---|---:|---:|")
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as scratch:
            words = [f"training.epochs={arguments.epochs}", f"data.train_size={arguments.images}"]
            row = trained(recipe, Path(scratch) / "run", [*QUICK, *words, *arguments.words])
        print(f"| {recipe} | {row.images_per_second:,.0f} | {100 * (row.waiting or 0):.1f} % |")


def trained(recipe: str, out: Path, words: list[str]) -> EpochRow:
    """The figures of the last epoch."""
    command = [sys.executable, "-m", "vitrellis", "train", recipe, *words, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunDirectory(out).read_metrics()[-1]


if __name__ == "__main__":
    main()
