"""Images from disk to a training batch: our loader against torchvision's and timm's, in one run.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/loading.py PHOTOGRAPHS SMALL [--rounds 3] [--seconds 4]

(The command `vitrellis` sets this variable of torch, which makes new batches cheaper, by itself.)
PHOTOGRAPHS and SMALL are folders with one sub-folder of images for each class. The photographs are
used as they are, for a model of 224 pixels; the images of SMALL are resized first, to 64 pixels as
JPEG files and to 32 pixels as PNG files in a temporary folder. All sides make the same of them:
random resized crops (bicubic), of 32 pixels crops within a border of 4; flips; without and with
RandAugment; and normalised float batches.

- torchvision: ImageFolder, transforms v2, a DataLoader with two workers (RandAugment is timm's,
  because torchvision's is another)
- timm: its ImageDataset and create_loader with two workers
- ours: the training loader with two threads or workers; images mapped from the cache of decoded
  images, in the second run; held in memory; or read from the folder, from an LMDB file and from tar
  shards as `vitrellis data pack` writes them

Images per second are by the clock, which other programs on the machine disturb. Therefore there is
also the processor time of an image, that of all processes together. The ratio to torchvision is one
of processor times; the rounds of all sides alternate, and it is the median of their ratios. The
last column has the seconds from nothing to the first batch, in which images are held or workers
started. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm.data
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import Canvas, OwnShape, canvas_for
from vitrellis.data.loader import TrainLoader
from vitrellis.data.packing.pack import pack
from vitrellis.data.pixel_cache import PixelCache
from vitrellis.data.source import Images
from vitrellis.data.sources import load_source
from vitrellis.data.sources.files import list_images
from vitrellis.report.hardware import describe_hardware

WORKERS = 2
PADDING = 4
BATCH_SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POLICY = "rand-m9-inc1"
FILL = tuple(round(255 * value) for value in MEAN)


class Task(NamedTuple):
    """What is measured: a folder of images, the model's side in pixels, and the augmentation."""

    name: str
    folder: Path
    side: int
    policy: str | None


@dataclass
class Measured:
    """The figures of one side, one of each for every round."""

    speeds: list[float] = field(default_factory=list)
    cpu_milliseconds: list[float] = field(default_factory=list)
    first_batch: float = 0.0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Images from disk to a training batch.")
    parser.add_argument("photographs", type=Path, help="a folder of photographs, sorted by class")
    parser.add_argument("small", type=Path, help="a folder of images, sorted by class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each side in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(WORKERS)
    print(f"{describe_hardware()}; batches of {BATCH_SIZE}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folders = [("photographs, 224 px", arguments.photographs, 224)]
        for side, suffix in ((64, ".jpg"), (32, ".png")):
            shrunk = Path(scratch) / f"{side} px"
            shrink(arguments.small, shrunk, side, suffix)
            folders.insert(0, (f"{side} px", shrunk, side))
        for (name, folder, side), policy in itertools.product(folders, (None, POLICY)):
            what = f"{name}{', RandAugment' if policy else ''}"
            task = Task(what, folder, side, policy)
            sides = all_sides(task, Path(scratch) / f"{side}")
            print_table(task, measured(sides, arguments.rounds, arguments.seconds))


def shrink(folder: Path, out: Path, side: int, suffix: str) -> None:
    """Writes all images of a folder at another size."""
    for path in list_images(folder).images:
        target = (out / path.relative_to(folder)).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").resize((side, side)).save(target, quality=95)


def all_sides(task: Task, packs: Path) -> dict[str, Callable[[], Generator[Tensor, None, None]]]:
    """What makes endless batches, by the name of the side, torchvision's first."""
    cache = PixelCache(packs / "cache", 1 << 40, 0)
    if not packs.exists():
        source = load_source("folder", task.folder, channels=3)
        cache.open(source.train.images, canvas_of(task, source.train.images))
        pack(source, packs / "images.lmdb", form="lmdb")
        pack(source, packs / "shards", form="tar")
    ours = {
        "ours, cached": ("folder", task.folder, True, cache),
        "ours, held in memory": ("folder", task.folder, True, None),
        "ours, folder": ("folder", task.folder, False, None),
        "ours, LMDB": ("lmdb", packs / "images.lmdb", False, None),
        "ours, tar shards": ("webdataset", packs / "shards", False, None),
    }
    theirs = {"torchvision": lambda: torchvision_batches(task)}
    if task.side > 32:  # it has no crops within a border
        theirs["timm"] = lambda: timm_batches(task)
    return theirs | {name: lambda how=how: our_batches(task, *how) for name, how in ours.items()}


def torchvision_batches(task: Task) -> Generator[Tensor, None, None]:
    """Batches of an ImageFolder in a DataLoader, without end."""
    crop = (
        v2.RandomCrop(task.side, padding=PADDING)
        if task.side == 32
        else v2.RandomResizedCrop(task.side, interpolation=InterpolationMode.BICUBIC)
    )
    steps: list[Any] = [crop, v2.RandomHorizontalFlip()]
    if task.policy:
        settings = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
        steps.append(rand_augment_transform(task.policy, settings))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    loader = DataLoader(
        ImageFolder(str(task.folder), v2.Compose(steps)),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            yield images


def timm_batches(task: Task) -> Generator[Tensor, None, None]:
    """Batches of timm's loader, without end."""
    loader = timm.data.create_loader(
        timm.data.ImageDataset(str(task.folder)),
        input_size=(3, task.side, task.side),
        batch_size=BATCH_SIZE,
        is_training=True,
        use_prefetcher=False,
        color_jitter=0.0,
        auto_augment=task.policy,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        num_workers=WORKERS,
        persistent_workers=True,
        device=torch.device("cpu"),
    )
    while True:
        for images, _ in loader:
            yield images


def our_batches(
    task: Task, layout: str, root: Path, cache: bool, kept: PixelCache | None
) -> Generator[Tensor, None, None]:
    """Batches of the training loader, without end."""
    source = load_source(layout, root, channels=3)
    canvas = canvas_of(task, source.train.images)
    crop: dict[str, Any] = {"crop": "padded", "padding": PADDING} if task.side == 32 else {}
    loader = TrainLoader(
        source.train,
        num_classes=source.num_classes,
        batch_size=BATCH_SIZE,
        transform=TrainTransform(
            size=(task.side, task.side), mean=MEAN, std=STD, rand_augment=task.policy, **crop
        ),
        mix=None,
        seed=0,
        device=torch.device("cpu"),
        canvas=canvas if isinstance(canvas, OwnShape) else canvas.size,
        cache=cache,
        decoded=None if kept is None else kept.open(source.train.images, canvas),
        workers=WORKERS,
    )
    for epoch in itertools.count():
        for batch in loader.epoch(epoch):
            yield batch.images


def canvas_of(task: Task, images: Images) -> Canvas | OwnShape:
    """How the training loader stores images."""
    smallest = None if task.side == 32 else 0.08
    return canvas_for(images, (task.side, task.side), smallest=smallest)


def measured(
    sides: dict[str, Callable[[], Generator[Tensor, None, None]]], rounds: int, seconds: float
) -> dict[str, Measured]:
    """The figures of all sides. Each works alone: its processes end before another's begin."""
    found = {name: Measured() for name in sides}
    for _ in range(rounds):
        for name, make in sides.items():
            one = found[name]
            started = time.perf_counter()
            batches = make()
            next(batches)
            one.first_batch = time.perf_counter() - started
            for _ in range(2 * WORKERS):  # what was read ahead during the first batch
                next(batches)
            count, started, cpu = 0, time.perf_counter(), cpu_seconds()
            while (elapsed := time.perf_counter() - started) < seconds:
                count += len(next(batches))
            one.speeds.append(count / elapsed)
            one.cpu_milliseconds.append(1e3 * (cpu_seconds() - cpu) / count)
            batches.close()
            gc.collect()  # ends its workers, which the next ones would inherit otherwise
    return found


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of a process and of all that it started and that live."""
    root = Path("/proc") / str(pid or os.getpid())
    try:
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        children = [
            int(child)
            for thread in (root / "task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except FileNotFoundError:  # it has just ended
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children)


def print_table(task: Task, found: dict[str, Measured]) -> None:
    """A row for each side."""
    print(f"| {task.name} | images/s | ms of processor an image | over torchvision | first batch |")
    print("|---|---:|---:|---:|---:|")
    theirs = found["torchvision"].cpu_milliseconds
    for name, one in found.items():
        ratios = [other / own for own, other in zip(one.cpu_milliseconds, theirs, strict=True)]
        print(
            f"| {name} | {statistics.median(one.speeds):,.0f} "
            f"| {statistics.median(one.cpu_milliseconds):.2f} "
            f"| **{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f}) "
            f"| {one.first_batch:.1f} s |"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
