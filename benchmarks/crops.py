"""What random crops of photographs cost, and how sharp they are, against torchvision in one run.

    python benchmarks/crops.py FOLDER
    python benchmarks/crops.py FOLDER --sides 64 --smallest 0.6

FOLDER has one sub-folder of photographs for each class. Both sides make batches of normalised
floats by RandomResizedCrop (bicubic) and flips. torchvision's is an
ImageFolder in a DataLoader with two workers. Ours is the training loader with two threads or two
workers: with photographs held in memory, as they are (`input.canvas=original`) and reduced (the
default); read from disk; and squashed onto one canvas of 1.15 times the model's side, from which
all crops were cut until November 2026. Rounds alternate; ratios are taken within a round.

Speed is in images per second of processor time, over this process and those that read for it, which
other work on the machine disturbs less than the clock (Linux only).

Sharpness is the mean absolute difference of neighbouring pixels of many crops, over torchvision's.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import OwnShape, canvas_for
from vitrellis.data.loader import TrainLoader
from vitrellis.data.sources import Split, load_source

WORKERS = 2
BATCH_SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_VIEWS = 2048
"""Crops whose sharpness is measured."""
IDLE_SECONDS = 0.02
"""Processor time within a second, below which nothing is prepared any more."""


class Crops(NamedTuple):
    """The side of the result in pixels, and the smallest share of the area."""

    side: int
    smallest: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder of photographs, sorted by class")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224], help="in pixels")
    parser.add_argument("--smallest", type=float, default=0.08, help="share of the area of a crop")
    parser.add_argument("--images", type=int, default=768, help="how many are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="of each side in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # of the rest; threads that wait for each other use up time
    whole = load_source("folder", arguments.folder).train
    count = min(arguments.images, len(whole))
    chosen = torch.arange(count) * len(whole) // count
    print(f"{count} photographs, batches of {BATCH_SIZE}, {WORKERS} threads or workers")
    print("| side | loader | images per processor second | over torchvision | sharpness |")
    print("|---:|---|---:|---:|---:|")
    for side in arguments.sides:
        crops = Crops(side, arguments.smallest)
        batches = {"torchvision": their_batches(arguments.folder, chosen, crops)}
        batches |= our_batches(whole.subset(chosen), crops)
        speeds: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(arguments.rounds):
            for name, side_batches in batches.items():
                speeds[name].append(images_per_second(side_batches, arguments.batches))
        theirs, their_sharpness = speeds["torchvision"], sharpness(batches["torchvision"])
        for name, mine in speeds.items():
            ratios = [ours / other for ours, other in zip(mine, theirs, strict=True)]
            print(
                f"| {side} | {name} | {statistics.median(mine):,.0f} | "
                f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | "
                f"{sharpness(batches[name]) / their_sharpness:.2f} |",
                flush=True,
            )


def our_batches(split: Split, crops: Crops) -> dict[str, Iterator[Tensor]]:
    """Batches of training loaders, without end, by the loader's name."""
    reduced = canvas_for(split.images, (crops.side, crops.side), smallest=crops.smallest)
    squashed = (round(1.15 * crops.side), round(1.15 * crops.side))
    loaders: dict[str, Callable[[], TrainLoader]] = {
        "held, reduced": lambda: our_loader(split, crops, canvas=reduced),
        "held, original": lambda: our_loader(split, crops, canvas=OwnShape()),
        "from disk, original": lambda: our_loader(split, crops, canvas=OwnShape(), cache=False),
        "held, squashed first": lambda: our_loader(split, crops, canvas=squashed),
    }
    return {name: endless(loader()) for name, loader in loaders.items()}


def our_loader(split: Split, crops: Crops, **settings: Any) -> TrainLoader:
    """A training loader with the crops that are compared."""
    return TrainLoader(
        split,
        num_classes=int(split.labels.max()) + 1,
        batch_size=BATCH_SIZE,
        transform=TrainTransform(
            size=(crops.side, crops.side), mean=MEAN, std=STD, scale=(crops.smallest, 1.0)
        ),
        mix=None,
        seed=0,
        device=torch.device("cpu"),
        workers=WORKERS,
        **settings,
    )


def endless(loader: TrainLoader) -> Iterator[Tensor]:
    """The images of one epoch after the other."""
    for epoch in itertools.count():
        for batch in loader.epoch(epoch):
            yield batch.images


def their_batches(folder: Path, chosen: Tensor, crops: Crops) -> Iterator[Tensor]:
    """Batches of torchvision's ImageFolder in a DataLoader, without end."""
    crop = transforms.RandomResizedCrop(
        crops.side, scale=(crops.smallest, 1.0), interpolation=InterpolationMode.BICUBIC
    )
    steps = [
        crop,
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    loader = DataLoader(
        Subset(ImageFolder(folder, transforms.Compose(steps)), chosen.tolist()),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    while True:
        for batch, _ in loader:
            yield batch


def images_per_second(batches: Iterator[Tensor], count: int) -> float:
    """The speed of so many batches, in images per second of processor time."""
    for _ in range(2 * WORKERS + 1):  # what was prepared before
        next(batches)
    start = settled_seconds()
    seen = sum(len(next(batches)) for _ in range(count))
    return seen / (settled_seconds() - start)


def settled_seconds() -> float:
    """Processor time of this process and its children, once they have no batch left to prepare."""
    before, now = -1.0, processor_seconds()
    while now - before > IDLE_SECONDS:
        time.sleep(1)
        before, now = now, processor_seconds()
    return now


def processor_seconds() -> float:
    """Seconds of processor time that this process and its children have used."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user mode and in the system
    return ticks / os.sysconf("SC_CLK_TCK")


def sharpness(batches: Iterator[Tensor]) -> float:
    """Mean absolute difference of neighbouring pixels."""
    total, count = 0.0, 0
    while count < NUM_VIEWS:
        images = next(batches)
        total += float(images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) * len(
            images
        )
        count += len(images)
    return total / count


if __name__ == "__main__":
    main()
