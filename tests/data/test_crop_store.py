"""Views of photographs in the training loader: held or streamed, by one process or several."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from tests.data.rows_first import assert_alike, by_pillow
from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import Canvas, OwnShape
from vitrellis.data.loader import Batch, TrainLoader
from vitrellis.data.randomness import child_keys
from vitrellis.data.source import Split
from vitrellis.errors import VitrellisError

SIZE = (12, 16)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
MIX = Mix(mixup=0.8, cutmix=1.0, probability=0.6)
CPU = torch.device("cpu")
STRONG = TrainTransform(
    size=SIZE, mean=MEAN, std=STD, rand_augment="rand-m9-mstd0.5-inc1", erasing=0.3
)
PLAIN = TrainTransform(size=SIZE, mean=MEAN, std=STD, flip=0.5)
SECOND = TrainTransform(size=SIZE, mean=MEAN, std=STD, scale=(0.2, 0.5), interpolation="bilinear")
PADDED = TrainTransform(size=SIZE, mean=MEAN, std=STD, crop="padded", padding=2)


@dataclass
class Photographs:
    """Twenty images of many shapes; it counts how often each is read, in this process."""

    broken: int | None = None
    channels: int = 3
    size: tuple[int, int] | None = None
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        if index == self.broken:
            raise VitrellisError(f"{self.name(index)}: is damaged")
        self.reads.append(index)
        generator = torch.Generator().manual_seed(index)
        height, width = torch.randint(5, 90, (2,), generator=generator).tolist()
        return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)

    def name(self, index: int) -> str:
        return f"photos/{index}.jpg"

    def fingerprint(self) -> str:
        return ""


def loader(images: Photographs | None = None, **settings: Any) -> TrainLoader:
    chosen: dict[str, Any] = {
        "num_classes": 5,
        "batch_size": 6,
        "transform": STRONG,
        "mix": None,
        "seed": 0,
        "device": CPU,
        "canvas": OwnShape((24, 32)),
        "second_view": SECOND,
    }
    split = Split(images or Photographs(), torch.arange(20) % 5)
    return TrainLoader(split, **(chosen | settings))


def assert_equal_batches(mine: list[Batch], theirs: list[Batch]) -> None:
    assert len(mine) == len(theirs) > 0
    for one, other in zip(mine, theirs, strict=True):
        for name in ("images", "targets", "indices", "second_view", "sizes"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("second", [SECOND, PADDED], ids=["crops", "padded"])
def test_held_and_streamed_views_are_the_same(
    mix: Mix | None, repeats: int, second: TrainTransform
) -> None:
    settings: dict[str, Any] = {"mix": mix, "repeats": repeats, "second_view": second}
    held = list(loader(cache=True, workers=3, **settings).epoch(2))
    streamed = list(loader(cache=False, workers=0, **settings).epoch(2))
    assert_equal_batches(held, streamed)


@pytest.mark.parametrize("workers", [1, 2])
def test_however_many_processes_read_the_views_are_the_same(workers: int) -> None:
    streaming = loader(mix=MIX, cache=False, workers=workers)
    for epoch in (0, 1):
        assert_equal_batches(list(streaming.epoch(epoch)), list(loader(mix=MIX).epoch(epoch)))


@pytest.mark.parametrize("cache", [True, False])
def test_an_epoch_goes_on_in_the_middle(cache: bool) -> None:
    whole = list(loader(mix=MIX, cache=cache).epoch(1))
    assert_equal_batches(list(loader(mix=MIX, cache=cache).epoch(1, start_step=2)), whole[2:])


@pytest.mark.parametrize("cache", [True, False])
def test_processes_share_the_same_batches(cache: bool) -> None:
    whole = list(loader(mix=MIX, cache=cache).epoch(0))
    parts = [
        list(loader(mix=MIX, cache=cache, rank=rank, world_size=2).epoch(0)) for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *parts, strict=True):
        for name in ("images", "targets", "indices", "second_view", "sizes"):
            both = torch.cat([getattr(first, name), getattr(second, name)])
            assert torch.equal(both, getattr(batch, name)), name


def test_views_are_torchvisions_crops_of_the_image() -> None:
    """Those of both views, of the image as it is; Pillow's to a grey level."""
    deviation, mean = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    images = Photographs()
    for batch in loader(images, transform=PLAIN, canvas=OwnShape()).epoch(0):
        assert batch.second_view is not None
        assert batch.sizes is not None
        second_keys = child_keys(batch.keys, "second-view")
        for transform, views, keys in (
            (PLAIN, batch.images, batch.keys),
            (SECOND, batch.second_view, second_keys),
        ):
            boxes = transform.geometry.boxes(keys, batch.sizes).tolist()
            flips = transform.geometry.flips(keys)[:, 0].tolist()
            kernel = transform.interpolation
            for index, view, box, flip in zip(
                batch.indices.tolist(), views, boxes, flips, strict=True
            ):
                expected = TF.resized_crop(
                    images[index], *box, list(SIZE), InterpolationMode(kernel), antialias=True
                )
                assert_alike(expected, by_pillow(images[index], box, SIZE, kernel))
                expected = TF.horizontal_flip(expected) if flip else expected
                levels = (view * deviation + mean) * 255
                assert (levels - expected).abs().max() < 1e-3


def test_an_image_is_read_once_for_all_its_views() -> None:
    """Three views in a batch, as many mixing partners, and second views."""
    images = Photographs()
    settings: dict[str, Any] = {"mix": Mix(mixup=1.0), "repeats": 3, "batch_size": 18}
    batches = loader(images, cache=False, workers=0, **settings).epoch(0)
    batch = next(batches)
    assert len(batch) == 18
    # six images, and the next one of the order, the partner of the last three
    assert len(images.reads) == len(set(images.reads)) == 7
    images.reads.clear()
    held = loader(images, cache=True, **settings)
    assert sorted(images.reads) == list(range(20))
    list(held.epoch(0))
    assert len(images.reads) == 20


def test_sizes_are_those_from_which_crops_are_cut() -> None:
    images, shape = Photographs(), OwnShape((24, 32))
    (batch, *_) = loader(images, canvas=shape).epoch(0)
    assert batch.sizes is not None
    expected = [list(shape(images[index]).shape[-2:]) for index in batch.indices.tolist()]
    assert batch.sizes.tolist() == expected
    parts = batch.chunks(2)
    assert torch.equal(
        torch.cat([part.sizes for part in parts if part.sizes is not None]), batch.sizes
    )


def test_progress_is_told_of_every_image() -> None:
    told: list[tuple[int, int]] = []
    loader(progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 20) for i in range(1, 21)]


@pytest.mark.parametrize(("cache", "workers"), [(True, 2), (False, 0), (False, 2)])
def test_an_image_that_cannot_be_read_is_named(cache: bool, workers: int) -> None:
    settings: dict[str, Any] = {"cache": cache, "workers": workers, "drop_last": False}
    with pytest.raises(VitrellisError) as error:
        list(loader(Photographs(broken=7), **settings).epoch(0))
    assert str(error.value) == "photos/7.jpg: is damaged"


def test_an_epoch_that_is_given_up_leaves_no_threads() -> None:
    batches = loader(workers=3, batch_size=1).epoch(0)
    next(batches)
    assert any(thread.name.startswith("crops") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("crops") for thread in threading.enumerate())


def test_images_on_a_canvas_tell_no_sizes() -> None:
    on_canvas = loader(canvas=(14, 18))
    assert on_canvas.canvas == Canvas((14, 18))
    (batch, *_) = on_canvas.epoch(0)
    assert batch.sizes is None


LEFT = """
import torch
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import OwnShape
from vitrellis.data.loader import TrainLoader
from vitrellis.data.source import Split, TensorImages

images = TensorImages(torch.zeros(64, 3, 90, 90, dtype=torch.uint8))
loader = TrainLoader(
    Split(images, torch.arange(64) % 2),
    num_classes=2,
    batch_size=4,
    transform=TrainTransform(size=(64, 64), mean=[0.5] * 3, std=[0.2] * 3),
    mix=None,
    seed=0,
    device=torch.device("cpu"),
    canvas=OwnShape(),
    workers=2,
)
batches = loader.epoch(0)
print(next(batches).images.shape[0])
"""


def test_a_script_that_ends_within_an_epoch_ends_in_silence() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("4\n", "")
