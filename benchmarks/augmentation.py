"""Images per second of our augmentation against torchvision's in a DataLoader, on the same cores.

Both sides start from images in memory, do the same to them, and end with normalised float batches.
Theirs: Pillow images, torchvision's transforms (timm's for RandAugment and erasing, which
torchvision has in other versions) in a DataLoader. Ours: a TrainLoader on one uint8 tensor. Rounds
of the two alternate; the table has the median speeds, and the median, lowest and highest ratio.
One core is measured in processor time, which other programs on the machine disturb less than the
clock, and two cores by the clock.

`--operations` measures each operation of RandAugment instead, on smooth colour images of 224
pixels, on one core: ours, as a policy applies it to a batch, against timm's on Pillow images.

    python benchmarks/augmentation.py [--operations] [--cores 1 2] [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from vitrellis.data.augmentation.operations import Layers, apply_layers
from vitrellis.data.augmentation.policies import CHOICES, strengths
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.loader import TrainLoader
from vitrellis.data.source import Split, TensorImages
from vitrellis.report.hardware import describe_hardware

NUM_IMAGES = 2048
BATCH_SIZE = 128
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
# without mstd: beyond a magnitude of 10 timm asks newer Pillow for something that it refuses
POLICY = "rand-m9-inc1"
ERASING = 0.25
MAGNITUDE = 9.0
STRONGER_WITH_MAGNITUDE = {
    "Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"
}  # fmt: skip
FILL = tuple(round(255 * value) for value in MEAN)


@dataclass(frozen=True)
class Pipeline:
    """What is done to images.

    Attributes:
        name: For the table.
        channels: Of the images.
        pixels: Sides of the stored images.
        size: Sides of the result.
        crop: "padded" or "resized".
        strong: Whether RandAugment and random erasing follow.
    """

    name: str
    channels: int
    pixels: int
    size: int
    crop: str
    strong: bool = False


PIPELINES = [
    Pipeline("crop (pad 3), flip; 28 px grey", 1, 28, 28, "padded"),
    Pipeline("crop (pad 4), flip; 32 px", 3, 32, 32, "padded"),
    Pipeline("resized crop, flip; 32 px", 3, 32, 32, "resized"),
    Pipeline("+ RandAugment, erasing; 32 px", 3, 32, 32, "resized", strong=True),
    Pipeline("resized crop, flip; 32 to 224 px", 3, 32, 224, "resized"),
    Pipeline("+ RandAugment, erasing; 32 to 224 px", 3, 32, 224, "resized", strong=True),
]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pillow images with torchvision's transforms."""

    def __init__(self, images: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        arrays = images.permute(0, 2, 3, 1).numpy()
        self.pictures = [Image.fromarray(a.squeeze(2) if a.shape[2] == 1 else a) for a in arrays]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), 0


def main() -> None:
    """Measures every pipeline, or every operation, and prints the table."""
    parser = argparse.ArgumentParser(description="Augmentation: images per second.")
    parser.add_argument("--operations", action="store_true", help="one row per operation")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="numbers of cores")
    parser.add_argument("--rounds", type=int, default=5, help="of each side")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    arguments = parser.parse_args()
    print(f"{describe_hardware()}, torchvision {torchvision.__version__}; batch {BATCH_SIZE}\n")
    if arguments.operations:
        print_operations(arguments.rounds)
        return
    heads = [
        f"ours, {cores} core(s) | DataLoader, {cores if cores > 1 else 0} workers | ratio"
        for cores in arguments.cores
    ]
    print("| | " + " | ".join(heads) + " |")
    print("|---|" + "---:|---:|---:|" * len(arguments.cores))
    for pipeline in PIPELINES:
        cells = [pipeline.name]
        for cores in arguments.cores:
            mine, theirs = compare(pipeline, cores, arguments.rounds, arguments.seconds)
            ratios = [ours / other for ours, other in zip(mine, theirs, strict=True)]
            cells += [
                f"{statistics.median(mine):,.0f}",
                f"{statistics.median(theirs):,.0f}",
                f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})",
            ]
        print("| " + " | ".join(cells) + " |", flush=True)


def print_operations(rounds: int) -> None:
    """Prints a row per operation of RandAugment, on one thread."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(BATCH_SIZE, 3, 14, 14, generator=generator)
    images = F.interpolate(coarse, (224, 224), mode="bilinear").to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    fill = torch.tensor(FILL).float()
    print("| operation, 224 px | ours, µs an image | Pillow, µs | ratio |")
    print("|---|---:|---:|---:|")
    sums = [0.0, 0.0]
    for index, name in enumerate(CHOICES):
        operations = torch.full((BATCH_SIZE, 1), index)
        magnitudes = torch.full((BATCH_SIZE, 1), MAGNITUDE, dtype=torch.float64)
        amounts = strengths(operations, magnitudes, torch.ones(BATCH_SIZE, 1), increasing=True)
        layers = Layers(operations, amounts)
        operation = AugmentOp(
            f"{name}Increasing" if name in STRONGER_WITH_MAGNITUDE else name,
            prob=1.0,
            magnitude=MAGNITUDE,
            hparams={"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR},
        )
        changed = images.clone()
        sides: list[Callable[[], object]] = [
            partial(apply_layers, changed, layers, fill),
            partial(on_each, operation, pictures),
        ]
        times = [[cpu_seconds(side) for side in sides] for _ in range(rounds + 1)][1:]
        mine, theirs = (1e6 * statistics.median(t) / BATCH_SIZE for t in zip(*times, strict=True))
        sums = [sums[0] + mine, sums[1] + theirs]
        print(f"| {name} | {mine:.0f} | {theirs:.0f} | {theirs / mine:.1f} |", flush=True)
    mine, theirs = (total / len(CHOICES) for total in sums)
    print(f"| mean of all | {mine:.0f} | {theirs:.0f} | **{theirs / mine:.1f}** |")


def on_each(operation: AugmentOp, pictures: list[Image.Image]) -> None:
    """Applies an operation to Pillow images."""
    for picture in pictures:
        operation(picture)


def cpu_seconds(function: Callable[[], object]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def compare(
    pipeline: Pipeline, cores: int, rounds: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Images per second of both sides in every round, ours first."""
    torch.set_num_threads(cores)
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_IMAGES, pipeline.channels, pipeline.pixels, pipeline.pixels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    mine = our_batches(pipeline, images)
    theirs = their_batches(pipeline, images, workers=0 if cores == 1 else cores)
    clock = time.process_time if cores == 1 else time.perf_counter
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, batches in zip(speeds, (mine, theirs), strict=True):
            side.append(images_per_second(batches, seconds, clock))
    return speeds


def our_batches(pipeline: Pipeline, images: Tensor) -> Iterator[Tensor]:
    """Batches of a `TrainLoader`, without end."""
    settings: dict[str, Any] = {"crop": pipeline.crop, "padding": pipeline.size // 8}
    if pipeline.strong:
        settings |= {"rand_augment": POLICY, "erasing": ERASING}
    loader = TrainLoader(
        Split(TensorImages(images), torch.zeros(len(images), dtype=torch.int64)),
        num_classes=10,
        batch_size=BATCH_SIZE,
        transform=TrainTransform(
            size=(pipeline.size, pipeline.size),
            mean=MEAN[: pipeline.channels],
            std=STD[: pipeline.channels],
            **settings,
        ),
        mix=None,
        seed=0,
        device=torch.device("cpu"),
        canvas=(pipeline.pixels, pipeline.pixels),
    )
    epoch = 0
    while True:
        for batch in loader.epoch(epoch):
            yield batch.images
        epoch += 1


def their_batches(pipeline: Pipeline, images: Tensor, workers: int) -> Iterator[Tensor]:
    """Batches of a `DataLoader`, without end."""
    steps: list[Callable[..., Any]] = [
        transforms.RandomCrop(pipeline.size, padding=pipeline.size // 8)
    ]
    if pipeline.crop == "resized":
        steps = [
            transforms.RandomResizedCrop(pipeline.size, interpolation=InterpolationMode.BICUBIC)
        ]
    steps.append(transforms.RandomHorizontalFlip())
    if pipeline.strong:
        settings = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
        steps.append(rand_augment_transform(POLICY, settings))
    steps.append(transforms.ToTensor())
    steps.append(transforms.Normalize(MEAN[: pipeline.channels], STD[: pipeline.channels]))
    if pipeline.strong:
        steps.append(RandomErasing(ERASING, mode="pixel", device="cpu"))
    loader = DataLoader(
        Pictures(images, transforms.Compose(steps)),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        for batch, _ in loader:
            yield batch


def images_per_second(
    batches: Iterable[Tensor], seconds: float, clock: Callable[[], float]
) -> float:
    """Over about so many seconds of the clock, after two batches to warm up."""
    iterator = iter(batches)
    for _ in range(2):
        next(iterator)
    count, started = 0, clock()
    while clock() - started < seconds:
        count += len(next(iterator))
    return count / (clock() - started)


if __name__ == "__main__":
    main()
