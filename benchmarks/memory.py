"""Memory of an epoch that is streamed from many files: does it stay flat?

    python benchmarks/memory.py PHOTOGRAPHS [--counts 10000 100000]

Crops of the photographs in a folder are written into a temporary one, as so many JPEG files of 48
pixels in ten classes. A process of its own then opens the folder, and reads an epoch by a training
loader with two worker processes, `machine.cache=false` in a recipe. The table has the memory of all
processes together in MiB (PSS: what processes share counts once): before the folder was opened,
after, and the highest in each quarter of the epoch. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.loader import TrainLoader
from vitrellis.data.sources import load_source
from vitrellis.data.sources.files import list_images
from vitrellis.report.hardware import describe_hardware

SIDE = 48
CLASSES = 10
WORKERS = 2
BATCH_SIZE = 128
QUARTERS = 4


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Memory of a streamed epoch.")
    parser.add_argument("photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    arguments = parser.parse_args()
    print(f"{describe_hardware()}; {WORKERS} workers, batches of {BATCH_SIZE}; MiB\n")
    heads = [f"quarter {number + 1}" for number in range(QUARTERS)]
    print(f"| files | at first | opened | {' | '.join(heads)} | seconds |")
    print("|---:" * (QUARTERS + 4) + "|")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as scratch:
            write_crops(arguments.photographs, Path(scratch), count)
            ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(
                target=read_epoch, args=(Path(scratch), theirs)
            )
            process.start()
            theirs.close()
            figures = ours.recv()
            process.join()
        cells = [f"{figure:,.0f}" for figure in figures]
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


def write_crops(photographs: Path, out: Path, count: int) -> None:
    """Writes so many crops, each of other pixels."""
    paths = list_images(photographs).images
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        (out / f"class {label}").mkdir()
    each = -(-count // len(paths))
    written = 0
    for path in paths:
        picture = Image.open(path).convert("RGB")
        for _ in range(min(each, count - written)):
            left, top = (int(generator.integers(0, side - SIDE + 1)) for side in picture.size)
            crop = picture.crop((left, top, left + SIDE, top + SIDE))
            crop.save(out / f"class {written % CLASSES}" / f"crop {written:06d}.jpg", quality=85)
            written += 1


def read_epoch(folder: Path, answer: Connection) -> None:
    """Sends the figures of a row."""
    torch.set_num_threads(1)
    # as in a run of its own on Linux; this process was spawned, and would spawn its workers, too
    multiprocessing.set_start_method("fork", force=True)
    at_first = mebibytes()
    source = load_source("folder", folder)
    opened = mebibytes()
    loader = TrainLoader(
        source.train,
        num_classes=CLASSES,
        batch_size=BATCH_SIZE,
        transform=TrainTransform(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, crop="padded"),
        mix=None,
        seed=0,
        device=torch.device("cpu"),
        canvas=(32, 32),
        cache=False,
        workers=WORKERS,
    )
    peaks = [0.0] * QUARTERS
    started = time.perf_counter()
    for step, _ in enumerate(loader.epoch(0)):
        if step % 4 == 0:
            quarter = step * QUARTERS // loader.steps_per_epoch
            peaks[quarter] = max(peaks[quarter], mebibytes())
    answer.send([at_first, opened, *peaks, time.perf_counter() - started])


def mebibytes(pid: int | None = None) -> float:
    """Memory of this process, or another, and of all that it started and that live."""
    root = Path("/proc") / str(pid or os.getpid())
    try:
        lines = (root / "smaps_rollup").read_text().splitlines()
        children = [
            int(child)
            for thread in (root / "task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return own / 1024 + sum(mebibytes(child) for child in children)


if __name__ == "__main__":
    main()
