"""Batches: of images held in memory, or streamed through worker processes.

Both ways give the same batches: workers only read and resize, or cut crops from photographs, and
the augmentation runs on the device. A batch is defined over all processes together, and each takes
its share of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.augmentation.cutting import Cutter
from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.threads import one_thread
from vitrellis.data.augmentation.transforms import SHARED_NUMBERS, TrainTransform
from vitrellis.data.batch_sizes import batch_sizes
from vitrellis.data.canvas import Canvas, Fit, OwnShape, ProgressCallback
from vitrellis.data.crop_store import (
    UncutViews,
    ViewImages,
    ViewStore,
    open_crop_store,
)
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.image_store import open_store
from vitrellis.data.pixel_cache import DecodedImages
from vitrellis.data.randomness import child_keys, epoch_order, sample_keys
from vitrellis.data.sampling import ClassSampler, Sampler
from vitrellis.data.share import Share
from vitrellis.data.source import Split
from vitrellis.devices import device_for_images
from vitrellis.errors import UsageError

_MOST_AT_ONCE = 8  # batches that are made together
VIEWS_VERSION = 3
"""To be raised when the same key shows an image otherwise: the version that a run begins with is in
its `data.json`. 1: crops from one canvas; 2: from photographs' own pixels; 3: resized by torch."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a batch.

    Attributes:
        images: float32 `(b, C, H, W)`, normalised.
        targets: float32 `(b, K)` class probabilities: one-hot, or mixed.
        indices: `(b,)` int64 numbers of the images in their split.
        keys: `(b,)` int64 on the CPU, the samples' keys for random numbers.
        size: Images in the whole batch, over all processes.
        second_view: The same images, augmented independently; None if the run needs no such view.
        sizes: `(b, 2)` int64 on the CPU, heights and widths of the images that crops were cut from;
            None if all training images are stored at one size.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    keys: Tensor
    size: int
    second_view: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self, count: int) -> list[Batch]:
        """The same samples in up to so many parts; each keeps the size of the whole batch."""
        fields = (self.images, self.targets, self.indices, self.keys)
        parts = list(zip(*(field.chunk(count) for field in fields), strict=True))
        optional = [
            [None] * len(parts) if field is None else field.chunk(count)
            for field in (self.second_view, self.sizes)
        ]
        return [
            Batch(images, targets, indices, keys, self.size, view, sizes)
            for (images, targets, indices, keys), view, sizes in zip(parts, *optional, strict=True)
        ]


class TrainLoader:
    """Augmented batches of a training split.

    Args:
        split: The images.
        num_classes: K.
        batch_size: Images in a batch of all processes together. A smaller set is one batch.
        transform: The augmentation of an image.
        mix: The mixing of two images; None for none.
        mix_epochs: Epochs in which images are mixed; None for all.
        seed: The seed of the run.
        device: The device on which batches are made.
        rank: The rank of this process.
        world_size: The number of processes.
        drop_last: Leave out an epoch's last batch if it is not full, and not the only one. One
            that has not an image for every process is left out anyway.
        selected_round: Leave out images at an epoch's end that do not fill a multiple of this
            number, unless there are no others.
        repeats: Views of the same image in an epoch.
        second_view: The augmentation of an image's second view, which is in the same batch and not
            mixed; None for no such view.
        sampler: Frequency of the classes, see `ClassSampler`; "uniform" shows every image
            once. Partners for mixing are the next images of the same order.
        canvas: `(H, W)` at which images are stored; or their own shape, for views that are cut from
            each image.
        fit: How images are brought to one size.
        cache: Hold all of them: as one tensor on the device, or in memory at their own shape.
        decoded: The images as they are stored, if a cache has them; used in place of `split.images`
            where all are held, and at their own shape where they stay in the cache.
        workers: Number of processes that read images if they are not cached, and of threads that
            cut views if they are cached at their own shape.
        progress: Called after every image that is read while the loader is built.

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
        transform: TrainTransform,
        mix: Mix | None,
        mix_epochs: int | None = None,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        selected_round: int = 1,
        repeats: int = 1,
        second_view: TrainTransform | None = None,
        sampler: Sampler = "uniform",
        canvas: tuple[int, int] | OwnShape,
        fit: Fit = "squash",
        cache: bool = True,
        decoded: DecodedImages | None = None,
        workers: int = 0,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.num_classes = num_classes
        self._selected, self.batch_size, rest = batch_sizes(
            len(split),
            batch_size,
            world_size,
            drop_last=drop_last,
            selected_round=selected_round,
        )
        if self.batch_size < world_size:
            raise UsageError(
                f"{world_size} devices share batches of {self.batch_size} images; "
                "each needs at least one. Use fewer machine.devices"
            )
        self.steps_per_epoch = self._selected // self.batch_size + int(rest > 0)
        self.transform = transform
        # a single image has no partner
        self.mix = mix if mix is not None and mix.active and len(split) > 1 else None
        self.mix_epochs = mix_epochs
        self.seed = seed
        self.repeats = repeats
        self.second_view = second_view
        self._sampler = ClassSampler(split.labels, sampler) if sampler != "uniform" else None
        self._rank = rank
        self._world_size = world_size
        self._device = device
        device = device_for_images(device)
        self._labels = split.labels.to(device)
        numbers = self.batch_size // world_size * split.images.channels * prod(transform.size)
        self._is_small = device.type == "cpu" and numbers < SHARED_NUMBERS
        # operations on few images take as long as on many, and in several threads longer
        self._at_once = min(_MOST_AT_ONCE, SHARED_NUMBERS // numbers) if self._is_small else 1
        self._at_once = self._at_once if cache else 1
        self.is_held = cache
        self.is_mapped = decoded is not None and isinstance(canvas, OwnShape)
        self.canvas: Canvas | OwnShape
        self._store: ViewStore
        common: _Common = {"device": device, "cache": cache, "workers": workers}
        if isinstance(canvas, OwnShape):
            self.canvas = canvas
            cutters = [Cutter(view.geometry) for view in (transform, second_view or transform)]
            self._store = open_crop_store(
                split.images,
                decoded=decoded,
                shape=canvas,
                cutters=cutters,
                progress=progress,
                **common,
            )
        else:
            self.canvas = Canvas(canvas, fit, transform.interpolation)
            self._store = UncutViews(
                open_store(
                    split.images, decoded=decoded, stored=self.canvas, progress=progress, **common
                )
            )

    @property
    def images_per_epoch(self) -> int:
        """Views shown in an epoch, over all processes."""
        return min(self.steps_per_epoch * self.batch_size, self._selected)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """This process's share of the batches of an epoch.

        Args:
            epoch: 0-based.
            start_step: Batches to skip, at no cost.
        """
        ahead, here = itertools.tee(self._shares(epoch, start_step))
        batches = self._store.read(share.request(self.second_view is not None) for share in ahead)
        pairs = zip(batches, here, strict=True)
        while True:
            with one_thread() if self._is_small else nullcontext():
                group = list(itertools.islice(pairs, self._at_once))
                batches_of_group = self._made(group) if group else []
            if not group:
                return
            yield from batches_of_group

    def _shares(self, epoch: int, start_step: int) -> Iterator[Share]:
        if self._sampler is None:
            order, views = epoch_order(len(self._labels), self.seed, epoch, self.repeats)
        else:
            order, views = self._sampler.epoch_order(self.seed, epoch, self.repeats)
        keys = sample_keys(self.seed, epoch, order, views)
        mix = self.mix if self.mix_epochs is None or epoch < self.mix_epochs else None
        for step in range(start_step, self.steps_per_epoch):
            first = step * self.batch_size
            whole = torch.arange(first, min(first + self.batch_size, self._selected))
            part = whole.tensor_split(self._world_size)[self._rank]
            yield self._share(order, keys, part, len(whole), mix)

    def _share(
        self, order: Tensor, keys: Tensor, part: Tensor, size: int, mix: Mix | None
    ) -> Share:
        """One process's share: the positions `part`, `(b,)`, of the epoch's order."""
        indices, keys = order[part], keys[part]
        if mix is None:
            none = part[:0]
            return Share(indices, keys, size, none, none, none, none, none)
        rows = mix.is_mixed(keys).nonzero().squeeze(1)
        # the next image of a random order is as good as any, and is in the same share, as a rule
        positions = (part[rows] + self.repeats) % len(order)
        is_here = (positions >= part[0]) & (positions <= part[-1])
        further = positions[~is_here].unique()
        places = torch.where(
            is_here, positions - part[0], len(part) + torch.searchsorted(further, positions)
        )
        partner_keys = child_keys(keys[rows], "mix-view")
        return Share(
            indices, keys, size, rows, order[positions], partner_keys, places, order[further]
        )

    def _made(self, group: list[tuple[ViewImages, Share]]) -> list[Batch]:
        """The batches of some steps, whose images are augmented together."""
        keys = [torch.cat([share.keys, share.partner_keys]) for _, share in group]
        first = self._augmented(self.transform, [shown.first for shown, _ in group], keys)
        second: tuple[Tensor | None, ...] = (None,) * len(group)
        if self.second_view is not None:
            images = [shown.second for shown, _ in group]
            second = self._augmented(
                self.second_view, images, [share.second_keys for _, share in group]
            )
        return [
            self._batch(share, shown.sizes, views, second_view)
            for (shown, share), views, second_view in zip(group, first, second, strict=True)
        ]

    def _batch(
        self, share: Share, sizes: Tensor | None, views: Tensor, second_view: Tensor | None
    ) -> Batch:
        device = views.device
        indices = share.indices.to(device, non_blocking=True)
        targets = self._one_hot(self._labels[indices])
        images, partner_images = views.split([len(indices), len(share.rows)])
        if self.mix is not None and len(share.rows):
            rows = share.rows.to(device, non_blocking=True)
            images[rows], targets[rows] = self.mix(
                images[rows],
                targets[rows],
                partner_images,
                self._one_hot(self._labels[share.partners.to(device, non_blocking=True)]),
                share.keys[share.rows],
            )
        sizes = None if sizes is None else sizes[: len(indices)]
        made_on, used_on = device, self._device
        if made_on != used_on:
            images, targets, indices = (x.to(used_on) for x in (images, targets, indices))
            second_view = None if second_view is None else second_view.to(used_on)
        return Batch(images, targets, indices, share.keys, share.size, second_view, sizes)

    def _augmented(
        self, transform: TrainTransform, images: list[Tensor], keys: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """The views of several batches, augmented together."""
        augment = transform.after_cut if isinstance(self.canvas, OwnShape) else transform
        if len(images) == 1:
            return (augment(images[0], keys[0]),)
        return augment(torch.cat(images), torch.cat(keys)).split([len(part) for part in keys])

    def _one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.num_classes).float()


class _Common(TypedDict):
    """What every store of a loader is given."""

    device: torch.device
    cache: bool
    workers: int


@dataclass(frozen=True)
class EvalBatch:
    """One batch of an evaluation.

    Attributes:
        images: float32 `(b, C, H, W)`, normalised.
        labels: `(b,)` int64.
    """

    images: Tensor
    labels: Tensor


class EvalLoader:
    """A split in order, each image once over all processes.

    Args:
        split: The images.
        transform: Brings images to the model's size.
        batch_size: Images in a batch of this process.
        device: The device on which batches are made.
        rank: The rank of this process.
        world_size: The number of processes.
        cache: Hold all of this process's images as one tensor on the device.
        decoded: All images of the split as the model sees them, if a cache has them.
        workers: Number of processes that read images if they are not cached.

    Raises:
        VitrellisError: If an image cannot be read.
    """

    def __init__(
        self,
        split: Split,
        *,
        transform: EvalTransform,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        cache: bool = True,
        decoded: DecodedImages | None = None,
        workers: int = 0,
    ) -> None:
        self._indices = torch.arange(len(split)).tensor_split(world_size)[rank]
        part = split if world_size == 1 else split.subset(self._indices)
        self.transform = transform
        self.batch_size = batch_size
        self.device = device
        self._labels = part.labels.to(device)
        stored, self._finish = transform.stored(part.images)
        self._images = part.images
        self._store = open_store(
            part.images,
            decoded=None if decoded is None else decoded.subset(self._indices),
            device=device_for_images(device),
            stored=stored,
            cache=cache,
            workers=workers,
            progress=None,
        )

    def __len__(self) -> int:
        return -(-len(self._indices) // self.batch_size)

    def name(self, position: int) -> str:
        """The name of the image at a position among this process's images."""
        return self._images.name(position)

    def __iter__(self) -> Iterator[EvalBatch]:
        count = len(self._indices)
        parts = torch.arange(count).split(self.batch_size) if count else ()
        for part, stored in zip(parts, self._store.read(parts), strict=True):
            first, last = int(part[0]), int(part[-1])
            yield EvalBatch(self._finish(stored).to(self.device), self._labels[first : last + 1])
