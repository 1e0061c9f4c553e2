"""The partners of mixed images: other images of the epoch, which are read only once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.loader import TrainLoader
from vitrellis.data.source import Images, Split, TensorImages


def split(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return Split(TensorImages(images), torch.arange(count) % 5)


def train_loader(
    images: Split, *, num_classes: int = 5, batch_size: int = 16, repeats: int = 1
) -> TrainLoader:
    return TrainLoader(
        images,
        num_classes=num_classes,
        batch_size=batch_size,
        transform=TrainTransform(size=(4, 4), mean=[0.5], std=[0.2]),
        mix=Mix(mixup=1.0),
        seed=0,
        device=torch.device("cpu"),
        repeats=repeats,
        canvas=(6, 6),
        cache=False,
    )


@dataclass(frozen=True)
class Counted:
    """Images that remember which of them were read."""

    base: Images
    read: list[int]

    @property
    def channels(self) -> int:
        return self.base.channels

    @property
    def size(self) -> tuple[int, int] | None:
        return self.base.size

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return self.base[index]

    def name(self, index: int) -> str:
        return self.base.name(index)

    def fingerprint(self) -> str:
        return self.base.fingerprint()


@pytest.mark.parametrize("repeats", [1, 3])
def test_mixing_reads_no_image_twice_in_a_batch(repeats: int) -> None:
    """48 samples in three batches: each image once, and the first of the next batch."""
    plain = split(48)
    counted = Split(Counted(plain.images, []), plain.labels)
    assert isinstance(counted.images, Counted)
    loader = train_loader(counted, repeats=repeats)
    list(loader.epoch(0))
    assert len(counted.images.read) <= 48 + 3 * repeats  # before: 96


def test_partners_are_other_images_in_random_pairs() -> None:
    """The targets of an image mixed by mixup name its partner, and it changes with the epoch."""
    images = Split(split(20).images, torch.arange(20))
    loader = train_loader(images, num_classes=20, batch_size=20)
    pairs = []
    for epoch in range(3):
        (batch,) = loader.epoch(epoch)
        partners = batch.targets.scatter(1, batch.indices[:, None], -1.0).argmax(dim=1)
        assert not bool((partners == batch.indices).any())
        assert len(partners.unique()) > 15  # but for shares that round to 0
        pairs.append(set(zip(batch.indices.tolist(), partners.tolist(), strict=True)))
    assert len(pairs[0] & pairs[1]) + len(pairs[1] & pairs[2]) < 10
