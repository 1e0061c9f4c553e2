"""The cache of decoded images: never another pixel than decoding gives, whatever happens to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import Canvas, OwnShape
from vitrellis.data.loader import Batch, TrainLoader
from vitrellis.data.packing.pack import pack
from vitrellis.data.pixel_cache import DecodedImages, PixelCache, default_folder
from vitrellis.data.source import Images, Source, Split, TensorImages
from vitrellis.data.sources import files, load_source
from vitrellis.errors import VitrellisError

COUNT = 12
WHOLE, REDUCED = OwnShape(), OwnShape((16, 16))


def folder(root: Path, count: int = COUNT) -> Path:
    """Photographs of many shapes in two classes."""
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(number)
        height, width = levels.integers(20, 60, 2)
        Image.fromarray(levels.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return root


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return load_source("folder", folder(tmp_path / "photos"))


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(tmp_path / "cache", limit=1 << 20, worthwhile=0)


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(*_: object) -> Tensor:
            raise AssertionError("an image was decoded")

        monkeypatch.setattr(files, "read_image", refuse)

    return forbid


def kept(cache: PixelCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


def opened(
    cache: PixelCache, images: Images, stored: Canvas | OwnShape = WHOLE, **settings: Any
) -> DecodedImages:
    found = cache.open(images, stored, **settings)
    assert found is not None
    return found


def assert_same(decoded: DecodedImages, images: Images, stored: Any = WHOLE) -> None:
    assert len(decoded) == len(images)
    for position in range(len(images)):
        expected = stored(images[position])
        assert torch.equal(decoded[position], expected)
        assert decoded.sizes[position].tolist() == list(expected.shape[1:])


@pytest.mark.parametrize("stored", [WHOLE, REDUCED, Canvas((9, 11))], ids=str)
def test_images_are_those_that_decoding_gives(
    source: Source, cache: PixelCache, stored: Canvas | OwnShape
) -> None:
    told: list[tuple[int, int]] = []
    decoded = opened(
        cache, source.train.images, stored, progress=lambda *counts: told.append(counts)
    )
    assert told == [(number, COUNT) for number in range(1, COUNT + 1)]
    assert_same(decoded, source.train.images, stored)
    if isinstance(stored, Canvas):
        assert torch.equal(decoded.stacked()[3], stored(source.train.images[3]))
    positions = torch.tensor([5, 0, 5])
    for number, position in enumerate(positions.tolist()):
        assert torch.equal(decoded.subset(positions)[number], decoded[position])


def test_a_later_run_decodes_nothing(
    source: Source, cache: PixelCache, nothing_is_decoded: Callable[[], None]
) -> None:
    opened(cache, source.train.images)
    expected = [source.train.images[number] for number in range(COUNT)]
    later = load_source("folder", Path(source.train.images.name(0)).parents[1])
    nothing_is_decoded()
    decoded = opened(cache, later.train.images)
    for number, image in enumerate(expected):
        assert torch.equal(decoded[number], image)


@pytest.mark.parametrize("form", ["lmdb", "tar"])
def test_packed_sets_are_kept_too(
    source: Source, cache: PixelCache, tmp_path: Path, form: Any
) -> None:
    out = tmp_path / ("packed.lmdb" if form == "lmdb" else "packed")
    pack(source, out, form=form)
    packed = load_source("lmdb" if form == "lmdb" else "webdataset", out)
    assert_same(opened(cache, packed.train.images), source.train.images)


def test_images_in_memory_are_not_kept(cache: PixelCache) -> None:
    images = TensorImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    assert cache.open(images, WHOLE) is None
    assert not cache.folder.exists()


def test_a_replaced_image_is_noticed_though_its_length_and_date_stay(
    source: Source, cache: PixelCache
) -> None:
    opened(cache, source.train.images)
    path = Path(source.train.images.name(0))
    before = path.stat()
    content = bytearray(path.read_bytes())
    Image.new("RGB", (20, 30), "red").save(path)
    path.write_bytes(path.read_bytes().ljust(len(content), b"\0"))  # behind the end of the picture
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    # the very same object: a digest of the bytes was taken before
    replaced = opened(cache, source.train.images)
    assert replaced[0].flatten(1).unique(dim=1).tolist() == [[255], [0], [0]]
    assert len(kept(cache)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"x" + content[1:],
        lambda content: content[:-10] + b"\xff" + content[-9:],
        lambda content: content[:-100] + b"\xff\xff" + content[-98:],
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: content[:4096] + bytes(8192) + content[12288:],
    ],
    ids=["empty", "half", "short", "long", "head", "foot", "index", "bit", "page"],
)
def test_damage_costs_the_file_and_never_a_pixel(
    source: Source, cache: PixelCache, damage: Callable[[bytes], bytes]
) -> None:
    opened(cache, source.train.images)
    (path,) = kept(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_same(opened(cache, source.train.images), source.train.images)
    assert_same(opened(cache, source.train.images), source.train.images)
    (path,) = kept(cache)
    assert path.read_bytes() == whole


def test_random_damage_never_changes_a_pixel(source: Source, cache: PixelCache) -> None:
    opened(cache, source.train.images)
    (path,) = kept(cache)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        # half of it where the index is
        place = random.integers(len(whole) if random.random() < 0.5 else COUNT * 32 + 56)
        content[-1 - place] ^= 1 << random.integers(8)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        assert_same(opened(cache, source.train.images), source.train.images)


def test_two_that_need_the_same_at_once_decode_it_once(source: Source, cache: PixelCache) -> None:
    told: list[int] = []

    def need(_: int) -> DecodedImages:
        return opened(cache, source.train.images, progress=lambda done, _: told.append(done))

    with ThreadPoolExecutor(4) as pool:  # each locks its own open file, as processes do
        for decoded in pool.map(need, range(4)):
            assert_same(decoded, source.train.images)
    assert told == list(range(1, COUNT + 1))
    assert len(kept(cache)) == 1


def test_what_a_killed_process_left_is_removed(source: Source, cache: PixelCache) -> None:
    cache.folder.mkdir()
    (cache.folder / "0123.unfinished").write_bytes(bytes(1000))
    opened(cache, source.train.images)
    assert [path.suffix for path in kept(cache)] == [".pixels"]


def test_files_that_were_used_longest_ago_make_room(source: Source, cache: PixelCache) -> None:
    images = source.train.images
    opened(cache, images)
    (first,) = kept(cache)
    room = PixelCache(cache.folder, round(2.5 * first.stat().st_size), worthwhile=0)
    opened(room, images, OwnShape(None, "bilinear"))
    os.utime(first)  # as using it does
    os.utime(next(path for path in kept(cache) if path != first), ns=(1, 1))
    opened(room, images, OwnShape((500, 500)))
    assert len(kept(cache)) == 2
    assert first in kept(cache)


@pytest.mark.parametrize("settings", [{"limit": 5000}, {"limit": 1 << 20, "worthwhile": 1 << 19}])
def test_too_many_and_too_few_are_not_kept(
    source: Source, cache: PixelCache, settings: dict[str, int]
) -> None:
    assert PixelCache(cache.folder, **settings).open(source.train.images, WHOLE) is None
    assert not cache.folder.exists()


def test_what_turns_out_larger_than_expected_is_not_kept(tmp_path: Path) -> None:
    """Of 40 images, every second one is looked at beforehand."""
    for number in range(64):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number // 2:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 100) if number % 4 == 2 else (10, 10)).save(path)
    images = load_source("folder", tmp_path / "photos").train.images
    cache = PixelCache(tmp_path / "cache", limit=100_000, worthwhile=0)
    assert cache.open(images, WHOLE) is None
    assert kept(cache) == []


def test_a_folder_that_cannot_be_made_is_done_without(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (
        PixelCache(tmp_path / "file" / "cache", 1 << 20, 0).open(source.train.images, WHOLE) is None
    )


def test_the_folder_is_where_users_expect_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches/vitrellis/pixels"
    for other in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        assert default_folder() == tmp_path / "home/.cache/vitrellis/pixels"


def test_a_file_of_another_user_is_read_and_left(
    source: Source, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(cache, source.train.images)
    (path,) = kept(cache)
    path.write_bytes(path.read_bytes()[:100] + b"\0" + path.read_bytes()[101:])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert_same(opened(cache, source.train.images), source.train.images)
    assert kept(cache) == [path]


def test_another_validation_split_uses_the_same_file(source: Source, cache: PixelCache) -> None:
    for seed in (0, 1):
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))
        part = source.train.subset(order[: COUNT - 3]).subset(torch.arange(COUNT - 4)).images
        assert_same(opened(cache, part), part)
        assert len(kept(cache)) == 1
    few = source.train.subset(torch.tensor([7, 2, 9])).images
    assert_same(opened(cache, few), few)
    assert len(kept(cache)) == 2
    assert min(path.stat().st_size for path in kept(cache)) < 3 * 60 * 60 * 3 + 500


def test_a_bad_image_is_named_unless_it_is_left_out(source: Source, cache: PixelCache) -> None:
    broken = Path(source.train.images.name(4))
    broken.write_bytes(broken.read_bytes()[:300])
    rest = torch.tensor([number for number in range(COUNT) if number != 4])
    assert_same(opened(cache, source.train.subset(rest).images), source.train.subset(rest).images)
    with pytest.raises(VitrellisError) as error:
        cache.open(source.train.images, WHOLE)
    assert str(error.value).startswith(str(broken))
    assert [path.suffix for path in kept(cache)] == [".pixels"]


def test_images_that_change_meanwhile_are_not_kept(source: Source, cache: PixelCache) -> None:
    def change(done: int, _: int) -> None:
        if done == 3:
            Image.new("RGB", (9, 9)).save(source.train.images.name(COUNT - 1))

    assert cache.open(source.train.images, WHOLE, change) is None
    assert kept(cache) == []


def batches(split: Split, **settings: Any) -> list[Batch]:
    size = (12, 16)
    transform = TrainTransform(
        size=size, mean=[0.5] * 3, std=[0.2] * 3, rand_augment="rand-m9-inc1"
    )
    loader = TrainLoader(
        split,
        num_classes=2,
        batch_size=5,
        transform=transform,
        mix=None,
        seed=0,
        device=torch.device("cpu"),
        **settings,
    )
    return [batch for epoch in range(2) for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("canvas", [REDUCED, (14, 18)], ids=str)
def test_batches_are_the_same_with_and_without(
    source: Source, cache: PixelCache, canvas: OwnShape | tuple[int, int]
) -> None:
    stored = canvas if isinstance(canvas, OwnShape) else Canvas(canvas)
    decoded = opened(cache, source.train.images, stored)
    mine = batches(source.train, canvas=canvas, decoded=decoded, workers=2)
    for settings in ({"cache": True}, {"cache": False}):
        for one, other in zip(mine, batches(source.train, canvas=canvas, **settings), strict=True):
            assert torch.equal(one.images, other.images)
