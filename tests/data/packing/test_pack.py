"""Packing and reading back: the same bytes, pixels, labels and order, whatever happens between."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import tarfile
from pathlib import Path
from typing import Any, Literal

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from vitrellis.data.packing import pack as pack_module
from vitrellis.data.packing.pack import CHECKSUMS_FILE, pack, verify
from vitrellis.data.source import Source
from vitrellis.data.sources import from_tensors, load_source
from vitrellis.errors import UsageError, VitrellisError

COUNTS = {"train": 7, "val": 3, "test": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            pixels = rng.integers(0, 256, (9 + number, 12, 3), np.uint8)
            path = (
                tmp_path / f"set/{split}/{'ab'[number % 2]}/{number}.{('png', 'jpg')[number % 2]}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "set"


def name_of(form: str) -> str:
    return "packed.lmdb" if form == "lmdb" else "packed"


def read(form: str, path: Path) -> Source:
    return load_source("lmdb" if form == "lmdb" else "webdataset", path)


def content_of(path: Path) -> dict[str, Any]:
    """All that was written: LMDB's pages may lie in another order."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as file,
        file.begin() as all_,
    ):
        return {bytes(key).decode(): bytes(value) for key, value in all_.cursor()}


def read_all(form: str, path: Path) -> list[torch.Tensor]:
    images = read(form, path).train.images
    return [images[number] for number in range(len(images))]


FORMS = pytest.mark.parametrize("form", ["lmdb", "tar"])
Form = Literal["lmdb", "tar"]


@FORMS
def test_a_packed_folder_is_the_folder(folder: Path, tmp_path: Path, form: Form) -> None:
    source = load_source("folder", folder)
    packed = pack(source, tmp_path / name_of(form), form=form, shard_bytes=2000)
    assert (packed.images, packed.kept) == (14, 0)
    again = read(form, packed.path)
    assert again.class_names == source.class_names
    assert list(again.splits) == list(source.splits)
    for name, split in source.splits.items():
        other = again.splits[name]
        assert torch.equal(split.labels, other.labels)
        assert split.images.channels == other.images.channels
        for index in range(len(split)):
            assert torch.equal(split.images[index], other.images[index])
            assert split.images.name(index) == other.images.name(index)
    assert not (tmp_path / (name_of(form) + ".partial")).exists()


def test_shards_hold_the_files_byte_for_byte_as_webdataset_names_them(
    folder: Path, tmp_path: Path
) -> None:
    pack(load_source("folder", folder), tmp_path / "packed", form="tar", shard_bytes=1000)
    originals = {file.read_bytes() for file in folder.rglob("*.*")}
    shards = sorted((tmp_path / "packed").glob("train-*.tar"))
    assert len(shards) > 1
    images, labels = [], []
    for shard in shards:
        with tarfile.open(shard) as archive:
            for image, label in zip(*[iter(archive.getmembers())] * 2, strict=True):
                assert image.name.partition(".")[0] == label.name.removesuffix(".cls")
                images.append(archive.extractfile(image).read())  # type: ignore[union-attr]
                labels.append(int(archive.extractfile(label).read()))  # type: ignore[union-attr]
    assert originals.issuperset(images)
    assert labels == load_source("folder", folder).train.labels.tolist()
    for line in (tmp_path / "packed" / CHECKSUMS_FILE).read_text().splitlines():
        digest, name = line.split("  ")
        content = (tmp_path / "packed" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


@FORMS
@pytest.mark.parametrize("after", [1, 8])
def test_an_interrupted_pack_continues(
    folder: Path, tmp_path: Path, form: Form, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrellis.data.packing.pack._AT_ONCE", 2)
    source = load_source("folder", folder)
    whole = pack(source, tmp_path / ("whole" + name_of(form)), form=form, shard_bytes=800)

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    out = tmp_path / name_of(form)
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, form=form, shard_bytes=800, progress=stop)
    assert not out.exists()
    packed = pack(source, out, form=form, shard_bytes=800)
    assert after <= packed.kept < 14
    assert content_of(packed.path) == content_of(whole.path)


@FORMS
def test_every_damaged_byte_of_an_image_is_found(folder: Path, tmp_path: Path, form: Form) -> None:
    packed = pack(load_source("folder", folder), tmp_path / name_of(form), form=form)
    assert verify(packed.path) == 14
    original = next(iter(folder.rglob("test/a/0.png"))).read_bytes()
    file = packed.path if form == "lmdb" else packed.path / "test-000000.tar"
    content = bytearray(file.read_bytes())
    place = bytes(content).index(original) + len(original) // 2
    content[place] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(
        VitrellisError, match=r"image 0 of test \(.*0\.png\): differs from its check"
    ):
        verify(packed.path)


@FORMS
@pytest.mark.parametrize("named", [2, 20])
def test_all_damaged_images_are_named_up_to_a_number(
    folder: Path, tmp_path: Path, form: Form, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "NAMED", named)
    packed = pack(load_source("folder", folder), tmp_path / name_of(form), form=form)
    names = [Path("test/a/0.png"), Path("train/b/1.jpg"), Path("train/a/2.png")]
    originals = {name: next(iter(folder.rglob(str(name)))).read_bytes() for name in names}
    files = [packed.path] if form == "lmdb" else sorted(packed.path.glob("*.tar"))
    for file in files:
        content = file.read_bytes()
        for original in originals.values():
            middle = len(original) // 2
            changed = original[:middle] + bytes([original[middle] ^ 1]) + original[middle + 1 :]
            content = content.replace(original, changed)
        file.write_bytes(content)
    with pytest.raises(VitrellisError) as error:
        verify(packed.path)
    told = str(error.value)
    assert "3 of 14" in told
    assert sum(name.as_posix() in told for name in names) == min(3, named)
    assert ("1 more" in told) == (named == 2)


@FORMS
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_what_is_cut_off_is_refused(folder: Path, tmp_path: Path, form: Form, share: float) -> None:
    packed = pack(load_source("folder", folder), tmp_path / name_of(form), form=form)
    file = packed.path if form == "lmdb" else packed.path / "train-000000.tar"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(VitrellisError, match=r"is damaged|is no LMDB file|was cut off"):
        read_all(form, packed.path)
    with pytest.raises(VitrellisError):
        verify(packed.path)


@FORMS
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_that_lie_in_no_files_keep_every_pixel(
    tmp_path: Path, form: Form, channels: int
) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, channels, 8, 7), dtype=torch.uint8)
    source = from_tensors(images, torch.tensor([0, 1, 0, 1, 2, 2]), ["x", "y", "z"])
    pack(source, tmp_path / name_of(form), form=form)
    again = read(form, tmp_path / name_of(form))
    assert torch.equal(torch.stack([again.train.images[n] for n in range(6)]), images)
    assert again.train.images.size == (8, 7)


def test_large_images_are_shrunk_and_small_ones_kept(folder: Path, tmp_path: Path) -> None:
    source = load_source("folder", folder)
    pack(source, tmp_path / "packed", form="tar", size=10)
    again = read("tar", tmp_path / "packed")
    by_name = {again.train.images.name(n): again.train.images[n] for n in range(7)}
    for number in range(7):
        name, pixels = source.train.images.name(number), source.train.images[number]
        shorter = min(pixels.shape[1:])
        if shorter <= 10:
            assert torch.equal(by_name[name], pixels)
        else:
            assert min(by_name[name].shape[1:]) == 10


def _first_pixel(images: Any, index: int) -> int:
    return int(images[index].sum())


@FORMS
def test_processes_read_for_themselves(folder: Path, tmp_path: Path, form: Form) -> None:
    pack(load_source("folder", folder), tmp_path / name_of(form), form=form)
    images = read(form, tmp_path / name_of(form)).train.images
    expected = [_first_pixel(images, n) for n in range(7)]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.starmap(_first_pixel, [(images, n) for n in range(7)]) == expected


def test_what_exists_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    with pytest.raises(UsageError, match="packed: exists already"):
        pack(load_source("folder", folder), tmp_path / "packed", form="tar")


def test_files_of_folder2lmdb_are_explained(tmp_path: Path) -> None:
    for entries, message in (
        ({b"__len__": b"\x80", b"__keys__": b"\x80", b"0": b"\x80"}, "was written by folder2lmdb"),
        ({b"0": b"x"}, "that `vitrellis data pack` did not write, or not to its end"),
    ):
        file = tmp_path / f"{len(entries)}.lmdb"
        with (
            lmdb.open(str(file), subdir=False, map_size=1 << 20) as made,
            made.begin(write=True) as transaction,
        ):
            for key, value in entries.items():
                transaction.put(key, value)
        with pytest.raises(VitrellisError, match=message):
            load_source("lmdb", file)
    (tmp_path / "no.lmdb").write_bytes(b"no database")
    with pytest.raises(VitrellisError, match="is no LMDB file, or damaged"):
        load_source("lmdb", tmp_path / "no.lmdb")


def test_a_pickle_in_an_array_is_never_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name, content in (("0.npy", buffer.getvalue()), ("0.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(
        VitrellisError, match=r"0\.npy: is damaged \(Object arrays cannot be loaded"
    ):
        load_source("webdataset", tmp_path)


def test_another_file_at_the_same_path_is_read_anew(tmp_path: Path) -> None:
    for shade in (10, 20):
        images = torch.full((4, 1, 5, 5), shade, dtype=torch.uint8)
        (tmp_path / "set.lmdb").unlink(missing_ok=True)
        source = from_tensors(images, torch.tensor([0, 1, 0, 1]))
        pack(source, tmp_path / "set.lmdb", form="lmdb")
        read = load_source("lmdb", tmp_path / "set.lmdb").train.images
        assert set(read[0].flatten().tolist()) == {shade}
