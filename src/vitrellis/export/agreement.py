"""Whether an exported model says what the run's own model says, on real images, and how fast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.source import Split
from vitrellis.errors import VitrellisError
from vitrellis.export.description import NumberFormat
from vitrellis.export.graph import ImageClassifier
from vitrellis.runs.exported import Trained

BATCH_SIZE = 32
_FIRST_BATCHES = (1, 2, 3)
"""The numbers of images in the first batches, so that a batch size that is not free is noticed."""
_OTHER_SIZE = (32, 64)
"""The pixels that are added to height and width to try a free size."""
_TIMED_SECONDS = 1.0


class Runs(Protocol):
    """A model without reading and resizing."""

    def run(self, pixels: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)`, resized and cropped, to probabilities `(B, K)`."""
        ...


class Classifier(Runs, Protocol):
    """A model read back from the file that was written."""

    def predict(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 images `(C, H, W)` of any sizes to probabilities `(N, K)`."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """The largest difference at which an exported model counts as the same.

    Attributes:
        difference: The largest difference of a probability.
        agreement: The smallest share of images with the same label.
    """

    difference: float
    agreement: float


TOLERANCES: dict[NumberFormat, Tolerance] = {
    "float32": Tolerance(difference=1e-4, agreement=1.0),
    "float16": Tolerance(difference=0.02, agreement=0.99),
    "int8": Tolerance(difference=0.5, agreement=0.9),
}
"""What is accepted. float32 differs by the order of its sums, float16 by 11 bits a number; 8-bit
numbers change the labels of images between two classes, as `docs/export.md` says."""


@dataclass(frozen=True)
class Agreement:
    """The comparison of an exported model with `predict`.

    Attributes:
        num_images: The number of images compared.
        largest_difference: The largest difference of a probability.
        mean_difference: The mean difference of a probability.
        label_agreement: The share of images with the same likeliest class; those that `predict`
            itself calls equally likely, to 1e-4, count as the same.
        predict_top1: The accuracy of `predict` on these images.
        exported_top1: The accuracy of the exported model on them.
        predict_images_per_second: The speed of the run's model, without reading and resizing.
        exported_images_per_second: The speed of the exported model, likewise.
    """

    num_images: int
    largest_difference: float
    mean_difference: float
    label_agreement: float
    predict_top1: float
    exported_top1: float
    predict_images_per_second: float
    exported_images_per_second: float


def compare(
    trained: Trained,
    exported: Classifier,
    split: Split,
    progress: ProgressCallback | None = None,
) -> Agreement:
    """Predicts images by both models, in batches of several sizes.

    Args:
        trained: The run's model, on the CPU.
        exported: The exported model.
        split: The images and their true classes; a batch of them is in memory at a time.
        progress: Called after each batch with the numbers of images done and of all.
    """
    labels = split.labels
    expected, found = [], []
    for part in _batches(len(split)):
        some = [split.images[index] for index in part]
        expected.append(trained.predict(some))
        found.append(exported.predict(some))
        if progress is not None:
            progress(part.stop, len(split))
    reference, other = torch.cat(expected), torch.cat(found).float()  # (N, K)
    difference = (reference - other).abs()
    guesses = other.argmax(dim=1)
    of_guess = reference.gather(1, guesses[:, None])[:, 0]
    same = of_guess >= reference.amax(dim=1) - TOLERANCES["float32"].difference
    resize = trained.preprocessing.transform().resize_and_crop
    first = range(min(len(split), BATCH_SIZE))
    pixels = torch.stack([resize(split.images[index]) for index in first])
    return Agreement(
        num_images=len(split),
        largest_difference=difference.max().item(),
        mean_difference=difference.mean().item(),
        label_agreement=same.float().mean().item(),
        predict_top1=(reference.argmax(dim=1) == labels).float().mean().item(),
        exported_top1=(guesses == labels).float().mean().item(),
        predict_images_per_second=_speed(_Graph(trained), pixels),
        exported_images_per_second=_speed(exported, pixels),
    )


def compare_at_another_size(
    trained: Trained, exported: Classifier, images: Sequence[Tensor]
) -> float:
    """The largest difference of a probability on larger images of another shape.

    Args:
        trained: The run's model, on the CPU.
        exported: The exported model, whose size is free.
        images: uint8 `(C, H, W)` of any sizes.
    """
    resize = trained.preprocessing.transform().resize_and_crop
    height, width = resize.size
    larger = replace(resize, size=(height + _OTHER_SIZE[0], width + _OTHER_SIZE[1]))
    pixels = torch.stack([larger(image) for image in images[:BATCH_SIZE]])
    return (_Graph(trained).run(pixels) - exported.run(pixels)).abs().max().item()


def require_agreement(agreement: Agreement, precision: NumberFormat, name: str) -> None:
    """Refuses an exported model that differs from the run's.

    Args:
        agreement: The comparison.
        precision: Of the exported model, which decides the tolerance.
        name: The exported file, for the error.

    Raises:
        VitrellisError: If they differ by more than the tolerance.
    """
    tolerance = TOLERANCES[precision]
    is_close = agreement.largest_difference <= tolerance.difference  # false if it is no number
    if is_close and agreement.label_agreement >= tolerance.agreement:
        return
    raise VitrellisError(
        f"{name}: not written, because the exported model differs from `vitrellis predict`. Of "
        f"{agreement.num_images} images, {100 * agreement.label_agreement:.1f} % have the same "
        f"label, and a probability differs by up to {agreement.largest_difference:.2g}; "
        f"{precision} may differ by {tolerance.difference:g}, with "
        f"{100 * tolerance.agreement:g} % of the labels. "
        + (
            "Export without --half and --int8"
            if precision != "float32"
            else "Try another --format, and report it as a fault of Vitrellis"
        )
    )


class _Graph:
    """The run's model, without reading and resizing."""

    def __init__(self, trained: Trained) -> None:
        settings = trained.preprocessing
        self._classifier = ImageClassifier(trained.model, settings.mean, settings.std).eval()

    @torch.no_grad()
    def run(self, pixels: Tensor) -> Tensor:
        _, probabilities = self._classifier(pixels)
        return probabilities


def _batches(count: int) -> list[range]:
    """The indices of images, in batches of one, two and three, and then of `BATCH_SIZE`."""
    parts: list[range] = []
    start = 0
    while start < count:
        size = _FIRST_BATCHES[len(parts)] if len(parts) < len(_FIRST_BATCHES) else BATCH_SIZE
        parts.append(range(start, min(start + size, count)))
        start += size
    return parts


def _speed(model: Runs, pixels: Tensor) -> float:
    """Images per second of the fastest of some runs over a batch."""
    model.run(pixels)  # warms up
    fastest, end = float("inf"), time.perf_counter() + _TIMED_SECONDS
    while True:
        start = time.perf_counter()
        model.run(pixels)
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now >= end:
            return len(pixels) / fastest
