from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.loader import Batch, EvalLoader, TrainLoader
from vitrellis.data.randomness import epoch_order
from vitrellis.data.source import Split, TensorImages
from vitrellis.errors import UsageError

CPU = torch.device("cpu")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
MIX = Mix(mixup=0.8, cutmix=1.0, probability=0.6)


def split(count: int = 50, height: int = 10, width: int = 12) -> Split:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(TensorImages(images), torch.arange(count) % 5)


STRONG = TrainTransform(
    size=(8, 9), mean=MEAN, std=STD, rand_augment="rand-m9-mstd0.5-inc1", erasing=0.3
)


def train_loader(images: Split | None = None, **settings: Any) -> TrainLoader:
    chosen: dict[str, Any] = {
        "num_classes": 5,
        "batch_size": 16,
        "transform": STRONG,
        "mix": None,
        "seed": 0,
        "device": CPU,
        "canvas": (10, 12),
    }
    return TrainLoader(images or split(), **(chosen | settings))


def eval_loader(images: Split, **settings: Any) -> EvalLoader:
    plain = EvalTransform(size=(8, 9), mean=MEAN, std=STD)
    chosen: dict[str, Any] = {"batch_size": 16, "device": CPU}
    return EvalLoader(images, transform=plain, **(chosen | settings))


def by_view(batches: Iterator[Batch]) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Each image and its target, by the image's number and the times it was seen before."""
    seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for batch in batches:
        for index, image, target in zip(
            batch.indices.tolist(), batch.images, batch.targets, strict=True
        ):
            view = sum(other == index for other, _ in seen)
            seen[index, view] = (image, target)
    return seen


def assert_equal_batches(mine: list[Batch], theirs: list[Batch]) -> None:
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one.size == other.size
        for name in ("images", "targets", "indices"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
def test_a_batch_has_what_it_says(mix: Mix | None) -> None:
    images = split()
    batches = list(train_loader(images, mix=mix).epoch(0))
    assert len(batches) == 3
    for batch in batches:
        assert batch.size == 16
        assert batch.images.shape == (16, 3, 8, 9)
        assert batch.images.dtype == batch.targets.dtype == torch.float32
        torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(16))
        if mix is None:
            assert torch.equal(batch.targets.argmax(dim=1), images.labels[batch.indices])


@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(
    mix: Mix | None, repeats: int
) -> None:
    settings: dict[str, Any] = {"mix": mix, "repeats": repeats, "drop_last": False}
    whole = by_view(train_loader(batch_size=50, **settings).epoch(2))
    assert len(whole) == 50
    for batch_size in (1, 7, 32):
        parts = by_view(train_loader(batch_size=batch_size, **settings).epoch(2))
        assert parts.keys() == whole.keys()
        for key, (image, target) in parts.items():
            assert torch.equal(image, whole[key][0])
            assert torch.equal(target, whole[key][1])


def test_mixing_leaves_unmixed_samples_as_they_are() -> None:
    plain, mixed = by_view(train_loader().epoch(0)), by_view(train_loader(mix=MIX).epoch(0))
    same = [torch.equal(plain[key][0], mixed[key][0]) for key in plain]
    assert 0 < sum(same) < len(same)
    assert all(
        torch.equal(plain[key][1], mixed[key][1])
        for key, is_same in zip(plain, same, strict=True)
        if is_same
    )


def test_only_mixed_samples_pay_for_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    call = TrainTransform.__call__

    def counting(self: TrainTransform, images: Tensor, keys: Tensor) -> Tensor:
        shown.append(len(images))
        return call(self, images, keys)

    monkeypatch.setattr(TrainTransform, "__call__", counting)
    list(train_loader(mix=Mix(mixup=1.0, probability=0.25)).epoch(0))
    assert 48 < sum(shown) < 72


@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_and_cached_batches_are_the_same(mix: Mix | None, workers: int) -> None:
    images = split(height=14, width=11)
    settings: dict[str, Any] = {"mix": mix, "canvas": (9, 9), "fit": "crop"}
    cached = train_loader(images, **settings)
    streamed = train_loader(images, cache=False, workers=workers, **settings)
    for epoch in (0, 1):
        assert_equal_batches(list(streamed.epoch(epoch)), list(cached.epoch(epoch)))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
def test_starting_late_gives_the_tail_of_the_epoch(mix: Mix | None, cache: bool) -> None:
    loader = train_loader(mix=mix, cache=cache)
    whole = list(loader.epoch(1))
    for start in range(4):
        assert_equal_batches(list(loader.epoch(1, start)), whole[start:])


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("mix", [None, MIX], ids=["plain", "mixed"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shares_of_all_processes_are_the_batch(
    world_size: int, mix: Mix | None, drop_last: bool
) -> None:
    images = split(53)
    settings: dict[str, Any] = {"mix": mix, "drop_last": drop_last}
    whole = list(train_loader(images, **settings).epoch(0))
    shares = [
        list(train_loader(images, rank=rank, world_size=world_size, **settings).epoch(0))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(part.size == batch.size and len(part.images) > 0 for part in parts)
        for name in ("images", "targets", "indices"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(batch, name))


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (50, 16, True, [16, 16, 16]),
        (50, 16, False, [16, 16, 16, 2]),
        (48, 16, False, [16, 16, 16]),
        (50, 128, True, [50]),  # larger than the set: never an empty epoch
        (50, 128, False, [50]),
        (1, 128, True, [1]),
    ],
)
def test_an_epoch_is_never_empty(
    count: int, batch_size: int, drop_last: bool, sizes: list[int]
) -> None:
    for repeats in (1, 3):
        loader = train_loader(
            split(count), batch_size=batch_size, drop_last=drop_last, repeats=repeats, mix=MIX
        )
        assert [len(batch.images) for batch in loader.epoch(0)] == sizes
        assert loader.steps_per_epoch == len(sizes)
        assert loader.images_per_epoch == sum(sizes)


def test_a_rest_that_not_every_process_has_a_share_of_is_left_out() -> None:
    settings: dict[str, Any] = {"drop_last": False, "world_size": 4, "rank": 3}
    assert train_loader(split(51), **settings).steps_per_epoch == 3
    assert train_loader(split(52), **settings).steps_per_epoch == 4


def test_repeated_augmentation_shows_views_that_differ() -> None:
    views = by_view(train_loader(repeats=3, batch_size=50).epoch(0))
    assert len({index for index, _ in views}) == 17
    for index, view in views:
        if view > 0:
            assert not torch.equal(views[index, view][0], views[index, 0][0])


def test_uniform_is_the_order_of_the_epoch() -> None:
    order, _ = epoch_order(50, seed=0, epoch=2)
    for loader in (train_loader(), train_loader(sampler="uniform")):
        shown = torch.cat([batch.indices for batch in loader.epoch(2)])
        assert torch.equal(shown, order[: len(shown)])


@pytest.mark.parametrize("sampler", ["class_balanced", "square_root"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_drawn_images_are_the_same_for_all_processes_and_restarts(
    sampler: str, repeats: int
) -> None:
    settings: dict[str, Any] = {"mix": MIX, "sampler": sampler, "repeats": repeats}
    images = split()
    images = Split(images.images, (torch.arange(50) > 40).long())
    whole = list(train_loader(images, **settings).epoch(1))
    shares = [train_loader(images, **settings, world_size=3, rank=rank) for rank in range(3)]
    for one, *parts in zip(whole, *(loader.epoch(1) for loader in shares), strict=True):
        for name in ("images", "targets", "indices"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(getattr(one, name), joined), name
    assert_equal_batches(whole[2:], list(train_loader(images, **settings).epoch(1, 2)))
    assert len(whole) == 3


def test_partners_are_drawn_like_the_images() -> None:
    images = Split(split(200).images, (torch.arange(200) > 190).long())
    mix = Mix(mixup=1.0)
    settings: dict[str, Any] = {"mix": mix, "num_classes": 2, "batch_size": 200}
    balanced = train_loader(images, sampler="class_balanced", **settings)
    rare = torch.cat([next(balanced.epoch(epoch)).targets[:, 1] for epoch in range(5)])
    assert abs(rare.mean().item() - 0.5) < 0.08
    plain = train_loader(images, **settings)
    assert next(plain.epoch(0)).targets[:, 1].mean() < 0.15


def test_a_drawn_image_is_augmented_anew() -> None:
    images = Split(split().images, torch.tensor([1] + [0] * 49))
    loader = train_loader(images, sampler="class_balanced", batch_size=50)
    (batch,) = loader.epoch(0)
    rare = batch.images[batch.targets[:, 1] == 1]
    assert len(rare) > 10
    assert not torch.equal(rare[0], rare[1])


def test_mixing_ends_when_it_is_told_to() -> None:
    settled = train_loader(mix=MIX, mix_epochs=2)
    assert_equal_batches(list(settled.epoch(1)), list(train_loader(mix=MIX).epoch(1)))
    assert_equal_batches(list(settled.epoch(2)), list(train_loader().epoch(2)))


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"4 devices share batches of 3 images.*machine\.devices"):
        train_loader(split(3), world_size=4)


def test_training_numbers_are_not_drawn_from() -> None:
    state = torch.get_rng_state()
    for cache in (True, False):
        list(train_loader(mix=MIX, cache=cache, workers=0).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_building_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    images = split(7, height=20, width=20)
    train_loader(images, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(1, 8)]


@pytest.mark.parametrize(
    ("count", "selected_round", "drop_last", "sizes"),
    [
        (23, 4, False, [8, 8, 4]),
        (23, 4, True, [8, 8]),
        (23, 8, False, [8, 8]),
        (23, 1, False, [8, 8, 7]),
        (7, 8, False, [7]),  # all would be left out
        (7, 4, False, [4]),
    ],
)
def test_images_beyond_a_multiple_are_left_out(
    count: int, selected_round: int, drop_last: bool, sizes: list[int]
) -> None:
    loader = train_loader(
        split(count), batch_size=8, drop_last=drop_last, selected_round=selected_round
    )
    assert [len(batch) for batch in loader.epoch(0)] == sizes
    assert loader.steps_per_epoch == len(sizes)
    assert loader.images_per_epoch == sum(sizes)
    assert [batch.size for batch in loader.epoch(0)] == sizes


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_evaluation_sees_every_image_once(world_size: int, cache: bool) -> None:
    images = split(50)
    plain = EvalTransform(size=(8, 9), mean=MEAN, std=STD)
    assert isinstance(images.images, TensorImages)
    expected = plain(images.images.tensor)
    loaders = [
        eval_loader(images, rank=rank, world_size=world_size, cache=cache)
        for rank in range(world_size)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert sum(len(loader) for loader in loaders) == len(batches)
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), images.labels)


def test_an_evaluation_can_be_repeated() -> None:
    loader = eval_loader(split(20), cache=False, workers=1)
    first, second = list(loader), list(loader)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)


def test_a_process_without_images_evaluates_none() -> None:
    loader = eval_loader(split(2), rank=2, world_size=3)
    assert len(loader) == 0
    assert list(loader) == []


def test_second_view_is_another_of_the_same_images_and_changes_nothing_else() -> None:
    plain, both = train_loader(), train_loader(second_view=STRONG)
    for one, two in zip(plain.epoch(1), both.epoch(1), strict=True):
        assert one.second_view is None
        assert torch.equal(one.images, two.images)
        assert two.second_view is not None
        assert two.second_view.shape == two.images.shape
        same = (two.second_view == two.images).flatten(1).all(dim=1)
        assert not same.any()


def test_second_view_may_be_of_another_kind() -> None:
    """The first as without it; the second as if all images were varied in the other's way."""
    other = TrainTransform(size=(8, 9), mean=MEAN, std=STD, crop="none", flip=0, grayscale=1.0)
    first, both = train_loader(), train_loader(second_view=other)
    deviation = torch.tensor(STD).view(3, 1, 1)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    for one, two in zip(first.epoch(1), both.epoch(1), strict=True):
        assert torch.equal(one.images, two.images)
        assert two.second_view is not None
        grey = two.second_view * deviation + mean  # all channels alike
        assert (grey.amax(dim=1) - grey.amin(dim=1)).max() < 1e-5
        seen = two.images * deviation + mean
        assert (seen.amax(dim=1) - seen.amin(dim=1)).max() > 0.1


def test_second_view_is_counted_too() -> None:
    whole = list(train_loader(second_view=STRONG).epoch(1))
    later = list(train_loader(second_view=STRONG).epoch(1, start_step=2))
    halves = [list(train_loader(second_view=STRONG, rank=r, world_size=2).epoch(1)) for r in (0, 1)]
    views = [batch.second_view for batch in whole if batch.second_view is not None]
    for view, batch in zip(views[2:], later, strict=True):
        assert batch.second_view is not None
        assert torch.equal(view, batch.second_view)
    for view, first, second in zip(views, *halves, strict=True):
        assert first.second_view is not None
        assert second.second_view is not None
        assert torch.equal(view, torch.cat([first.second_view, second.second_view]))


def test_second_view_shows_the_images_that_were_asked_for() -> None:
    """Without augmentation both views are the image; the second one also where images are mixed."""
    same = TrainTransform(size=(10, 12), mean=MEAN, std=STD, crop="none", flip=0)
    plain = train_loader(transform=same).epoch(0)
    mixed = train_loader(transform=same, mix=MIX, second_view=same).epoch(0)
    for one, two in zip(plain, mixed, strict=True):
        assert two.second_view is not None
        assert torch.equal(one.images, two.second_view)
        assert not torch.equal(one.images, two.images)


def test_second_view_is_cut_into_the_same_parts() -> None:
    (batch, *_) = train_loader(second_view=STRONG).epoch(0)
    parts = batch.chunks(3)
    assert [len(part) for part in parts] == [6, 6, 4]
    assert batch.second_view is not None
    views = [part.second_view for part in parts if part.second_view is not None]
    assert torch.equal(torch.cat(views), batch.second_view)
    assert all(len(part) == len(view) for part, view in zip(parts, views, strict=True))
