"""Batches: from a tensor on the training device, or streamed through worker processes.

Both ways give the same batches: workers only read and resize, and the augmentation runs on the
device. A batch is defined over all processes together, and each takes its share of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from vitrellis.data.augmentation import Augment, Plain
from vitrellis.data.canvas import Fit, read_canvases, to_canvas
from vitrellis.data.mixing import Mix
from vitrellis.data.randomness import epoch_order, sample_keys
from vitrellis.data.sources.base import Split
from vitrellis.errors import UsageError, VitrellisError


@dataclass(frozen=True)
class Batch:
    """One process's share of a batch.

    Attributes:
        images: float32 `(b, C, H, W)`, normalised.
        targets: float32 `(b, K)` class probabilities: one-hot, or mixed.
        labels: `(b,)` int64, of the images before mixing.
        indices: `(b,)` int64 numbers of the images in their split.
        size: Images in the whole batch, over all processes.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor
    indices: Tensor
    size: int


class TrainLoader:
    """Augmented batches of a training split.

    Args:
        split: The images.
        num_classes: K.
        batch_size: Of all processes together. A set smaller than that is one batch.
        augment: What becomes of an image.
        mix: What becomes of two; None for nothing.
        seed: Of the run.
        device: Where batches are made.
        rank: Of this process.
        world_size: How many processes there are.
        drop_last: Leave out an epoch's last batch if it is not full, and not the only one.
        repeats: Views of the same image in an epoch.
        canvas: `(H, W)` at which images are stored.
        fit: How they are brought to it.
        resident: Hold all of them as one tensor on the device.
        workers: Processes that read images if they are not resident.

    Raises:
        UsageError: If there are fewer images than processes.
        VitrellisError: If an image cannot be read.
    """

    def __init__(
        self,
        split: Split,
        *,
        num_classes: int,
        batch_size: int,
        augment: Augment,
        mix: Mix | None,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        repeats: int = 1,
        canvas: tuple[int, int],
        fit: Fit = "squash",
        resident: bool = True,
        workers: int = 0,
    ) -> None:
        count = len(split)
        if min(batch_size, count) < world_size:
            raise UsageError(
                f"{world_size} devices share batches of {min(batch_size, count)} images; "
                "each needs at least one. Use fewer machine.devices"
            )
        self.num_classes = num_classes
        self.batch_size = min(batch_size, count)
        is_even = count % self.batch_size == 0
        self.steps_per_epoch = count // self.batch_size + (0 if drop_last or is_even else 1)
        self.augment = augment
        # a single image has no partner
        self.mix = mix if mix is not None and mix.active and count > 1 else None
        self.seed = seed
        self.repeats = repeats
        self._rank = rank
        self._world_size = world_size
        self._labels = split.labels.to(device)
        self._store = _Store(split, device, canvas, fit, resident, workers)

    @property
    def images_per_epoch(self) -> int:
        """Views shown in an epoch, over all processes."""
        return min(self.steps_per_epoch * self.batch_size, len(self._labels))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This process's share of the batches of an epoch.

        Args:
            epoch: 0-based.
            start_step: Batches to skip, at no cost.
        """
        indices, views = epoch_order(len(self._labels), self.seed, epoch, self.repeats)
        shares, sizes = [], []
        for step in range(start_step, self.steps_per_epoch):
            whole = torch.arange(
                step * self.batch_size, min((step + 1) * self.batch_size, len(indices))
            )
            positions = whole.tensor_split(self._world_size)[self._rank]
            keys = sample_keys(self.seed, epoch, indices[positions], views[positions])
            shares.append((indices[positions], keys))
            sizes.append(len(whole))
        wanted = [self._wanted(*share) for share in shares]
        batches = self._store.read(wanted)
        for (own, keys), size, stored in zip(shares, sizes, batches, strict=True):
            yield self._make(own, keys, size, stored)

    def _wanted(self, indices: Tensor, keys: Tensor) -> Tensor:
        """Images to read for a batch: its own, and their partners behind them."""
        if self.mix is None:
            return indices
        partners, _ = self.mix.partners(indices, keys, len(self._labels))
        return torch.cat([indices, partners])

    def _make(self, indices: Tensor, keys: Tensor, size: int, stored: Tensor) -> Batch:
        device = stored.device
        indices, keys = indices.to(device), keys.to(device)
        labels = self._labels[indices]
        targets = F.one_hot(labels, self.num_classes).float()
        if self.mix is None:
            return Batch(self.augment(stored, keys), targets, labels, indices, size)
        partners, partner_keys = self.mix.partners(indices, keys, len(self._labels))
        both = self.augment(stored, torch.cat([keys, partner_keys]))
        own, other = both.chunk(2)
        partner_targets = F.one_hot(self._labels[partners], self.num_classes).float()
        images, targets = self.mix(own, targets, other, partner_targets, keys)
        return Batch(images, targets, labels, indices, size)


@dataclass(frozen=True)
class EvalBatch:
    """One batch of an evaluation.

    Attributes:
        images: float32 `(b, C, H, W)`, normalised.
        labels: `(b,)` int64.
        indices: `(b,)` int64 numbers of the images in their split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class EvalLoader:
    """A split in order, each image once over all processes.

    Args:
        split: The images.
        plain: What becomes of an image.
        batch_size: Of this process.
        device: Where batches are made.
        rank: Of this process.
        world_size: How many processes there are.
        canvas: `(H, W)` at which images are stored.
        fit: How they are brought to it.
        resident: Hold all of them as one tensor on the device.
        workers: Processes that read images if they are not resident.

    Raises:
        VitrellisError: If an image cannot be read.
    """

    def __init__(
        self,
        split: Split,
        *,
        plain: Plain,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        canvas: tuple[int, int],
        fit: Fit = "squash",
        resident: bool = True,
        workers: int = 0,
    ) -> None:
        share = torch.arange(len(split)).tensor_split(world_size)[rank]
        self.plain = plain
        self.device = device
        self._batches = list(share.split(batch_size)) if len(share) else []
        self._labels = split.labels.to(device)
        self._store = _Store(split, device, canvas, fit, resident, workers)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[EvalBatch]:
        stored = self._store.read(self._batches)
        for indices, images in zip(self._batches, stored, strict=True):
            own = indices.to(self.device)
            yield EvalBatch(self.plain(images), self._labels[own], own)


class _Store:
    """Images at the canvas's size, on the device, by their numbers."""

    def __init__(
        self,
        split: Split,
        device: torch.device,
        canvas: tuple[int, int],
        fit: Fit,
        resident: bool,
        workers: int,
    ) -> None:
        self._device = device
        self._tensor: Tensor | None = None
        if resident:
            self._tensor = read_canvases(split.images, canvas, fit).to(device)
            return
        self._schedule = _Schedule()
        self._stream: DataLoader[Tensor | _Unreadable] = DataLoader(
            _Canvases(split, canvas, fit),
            batch_sampler=self._schedule,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """uint8 `(b, C, *canvas)` for each batch of image numbers."""
        if self._tensor is not None:
            for indices in batches:
                yield self._tensor[indices.to(self._device)]
            return
        self._schedule.batches = batches
        for stored in self._stream:
            if isinstance(stored, _Unreadable):
                raise VitrellisError(stored.message)
            yield stored.to(self._device, non_blocking=True)


class _Schedule:
    """Which images to read next. The workers live on from epoch to epoch, this changes."""

    def __init__(self) -> None:
        self.batches: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.batches:
            yield indices.tolist()

    def __len__(self) -> int:
        return len(self.batches)


@dataclass(frozen=True)
class _Unreadable:
    """An error on its way out of a worker, without the worker's traceback around it."""

    message: str


class _Canvases(Dataset[Any]):
    """Reads whole batches in a worker."""

    def __init__(self, split: Split, canvas: tuple[int, int], fit: Fit) -> None:
        self._images = split.images
        self._canvas = canvas
        self._fit: Fit = fit

    def __getitem__(self, index: int) -> Tensor:
        return to_canvas(self._images[index], self._canvas, self._fit)

    def __getitems__(self, indices: list[int]) -> Tensor | _Unreadable:
        try:
            return torch.stack([self[index] for index in indices])
        except VitrellisError as error:
            return _Unreadable(str(error))


def _as_it_is(batch: Tensor | _Unreadable) -> Tensor | _Unreadable:
    return batch
