"""Packs any source into one LMDB file or into tar shards, and verifies what was packed.

Encoded files are kept byte for byte; images that do not lie in files are encoded as PNG, or as
arrays where they have neither one nor three channels. So training on the packed set sees the same
pixels in the same order. A pack that is interrupted continues with the same command.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from vitrellis.data.packing.lmdb_file import INDEX_KEY, LmdbFile, image_key, import_lmdb
from vitrellis.data.packing.pack_index import PackIndex, SplitIndex, read_index
from vitrellis.data.packing.tar_shards import INDEX_FILE, TarShards, place_key
from vitrellis.data.source import Images, Source, Subset
from vitrellis.data.sources.decoding import IMAGE_SUFFIXES, decode_image
from vitrellis.data.sources.encoded import EncodedImages
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import UsageError, VitrellisError

PackFormat = Literal["lmdb", "tar"]
ProgressCallback = Callable[[int, int], None]

CHECKSUMS_FILE = "SHA256SUMS"
"""The checksums of the shards, in the form that `sha256sum -c` reads."""

_AT_ONCE = 500  # images in a transaction
_MAP_SIZE = 1 << 41  # bytes that the file may grow to; it takes only what it holds
_JPEG_QUALITY = 95
NAMED = 20
"""Most damaged images that one error names."""
_MAGIC = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    np.lib.format.MAGIC_PREFIX: ".npy",
}
"""The endings of names, by the first bytes of the files."""


class _Encoded(NamedTuple):
    split: str
    number: int
    label: int
    name: str
    content: bytes
    suffix: str


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        path: The file or folder.
        images: The number of images.
        kept: The number of images that an earlier attempt had packed already.
        num_bytes: The bytes of all encoded images.
    """

    path: Path
    images: int
    kept: int
    num_bytes: int


def pack(
    source: Source,
    out: Path,
    *,
    form: PackFormat,
    size: int | None = None,
    shard_bytes: int = 500_000_000,
    progress: ProgressCallback | None = None,
) -> Packed:
    """Packs all splits of a source.

    Args:
        source: The source.
        out: The LMDB file, or the folder of the shards; neither may exist.
        form: "lmdb" or "tar".
        size: Shrinks images whose shorter side is longer than this many pixels, and encodes them
            anew as JPEG; None keeps every file as it is.
        shard_bytes: About how large a shard becomes.
        progress: Called with the number of images that are done, and of all images.

    Raises:
        UsageError: If `out` exists.
        VitrellisError: If an image cannot be read, or the disk is full.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; give another name, or remove it")
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if form == "lmdb":
            packed = _pack_lmdb(source, partial, size, progress)
        else:
            packed = _pack_tar(source, partial, size, shard_bytes, progress)
        partial.rename(out)
    except OSError as error:
        raise VitrellisError(f"{partial}: cannot be written: {error.strerror}") from None
    return Packed(out, *packed)


def _pack_lmdb(
    source: Source, partial: Path, size: int | None, progress: ProgressCallback | None
) -> tuple[int, int, int]:
    """Writes the file; the numbers of images and of those that were there, and their bytes."""
    lmdb = import_lmdb(partial)
    index = _new_index(source)
    total = sum(len(split) for split in source.splits.values())
    done = kept = num_bytes = 0
    try:
        with lmdb.open(str(partial), subdir=False, map_size=_MAP_SIZE, lock=False) as environment:
            with environment.begin() as transaction:
                is_packed = {bytes(key) for key, _ in transaction.cursor()}
            for part in _in_parts(source, size, is_packed.__contains__):
                with environment.begin(write=True) as transaction:
                    for one in part:
                        key = image_key(one.split, one.number).encode()
                        if key in is_packed:
                            one = one._replace(content=bytes(transaction.get(key)))
                            kept += 1
                        else:
                            transaction.put(key, one.content)
                        _note(index, one)
                        num_bytes += len(one.content)
                done += len(part)
                if progress is not None:
                    progress(done, total)
            with environment.begin(write=True) as transaction:
                transaction.put(INDEX_KEY, index.to_bytes())
            environment.sync(True)
    except lmdb.Error as error:
        raise VitrellisError(f"{partial}: cannot be written ({error})") from None
    return total, kept, num_bytes


def _pack_tar(
    source: Source,
    partial: Path,
    size: int | None,
    shard_bytes: int,
    progress: ProgressCallback | None,
) -> tuple[int, int, int]:
    """Writes the shards; the numbers of images and of those that were there, and their bytes."""
    partial.mkdir(exist_ok=True)
    index = _new_index(source)
    total = sum(len(split) for split in source.splits.values())
    done = kept = num_bytes = 0
    checksums = []
    for shard, part in _in_shards(source, size, shard_bytes):
        name = f"{part[0].split}-{shard:06}.tar"
        content = _tar_of(part)
        digest = hashlib.sha256(content).hexdigest()
        file = partial / name
        # written anew only if an earlier attempt did not get so far
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            kept += len(part)
        else:
            temporary = file.with_suffix(".tmp")
            temporary.write_bytes(content)
            temporary.replace(file)
        checksums.append(f"{digest}  {name}\n")
        index.shards.append(name)
        _note_places(index, part, len(index.shards) - 1, content)
        num_bytes += sum(len(one.content) for one in part)
        done += len(part)
        if progress is not None:
            progress(done, total)
    (partial / "classes.txt").write_text("".join(f"{name}\n" for name in source.class_names))
    (partial / CHECKSUMS_FILE).write_text("".join(checksums))
    (partial / INDEX_FILE).write_bytes(index.to_bytes())
    for leftover in partial.glob("*.tmp"):
        leftover.unlink()
    return total, kept, num_bytes


def _new_index(source: Source) -> PackIndex:
    splits = {
        name: SplitIndex(size=None if split.images.size is None else list(split.images.size))
        for name, split in source.splits.items()
    }
    return PackIndex(
        source.name, list(source.class_names), source.channels, splits, list(source.notes)
    )


def _note(index: PackIndex, one: _Encoded) -> None:
    split = index.splits[one.split]
    split.labels.append(one.label)
    split.names.append(one.name)
    split.digests.append(hashlib.sha256(one.content).hexdigest())


def _note_places(index: PackIndex, part: list[_Encoded], shard: int, content: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        images = [member for member in archive if not member.name.endswith(".cls")]
    for one, member in zip(part, images, strict=True):
        _note(index, one)
        index.splits[one.split].places.append([shard, member.offset_data, member.size])


def _tar_of(part: list[_Encoded]) -> bytes:
    """A shard, the same bytes for the same images."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for one in part:
            members = {one.suffix: one.content, ".cls": str(one.label).encode()}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{one.number:09}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _in_parts(
    source: Source, size: int | None, is_packed: Callable[[bytes], bool]
) -> Iterator[list[_Encoded]]:
    """The images some hundred at a time; those that are packed already without their content."""
    part: list[_Encoded] = []
    for name, split in source.splits.items():
        for number, label in enumerate(split.labels.tolist()):
            if is_packed(image_key(name, number).encode()):
                known = split.images.name(number)
                part.append(_Encoded(name, number, label, known, b"", ""))
            else:
                part.append(_encode(split.images, name, number, label, size))
            if len(part) == _AT_ONCE:
                yield part
                part = []
    if part:
        yield part


def _in_shards(
    source: Source, size: int | None, shard_bytes: int
) -> Iterator[tuple[int, list[_Encoded]]]:
    """The images of each shard, with its number within its split."""
    for name, split in source.splits.items():
        part: list[_Encoded] = []
        shard = collected = 0
        for number, label in enumerate(split.labels.tolist()):
            one = _encode(split.images, name, number, label, size)
            part.append(one)
            collected += len(one.content)
            if collected >= shard_bytes:
                yield shard, part
                part, shard, collected = [], shard + 1, 0
        if part:
            yield shard, part


def _encode(images: Images, split: str, number: int, label: int, size: int | None) -> _Encoded:
    name = images.name(number)
    content, suffix = _own_file(images, number)
    if content is None or size is not None:
        pixels = images[number]
        if size is not None and min(pixels.shape[1:]) > size:
            content, suffix = _shrunk(pixels, size)
        elif content is None:
            content, suffix = _lossless(pixels)
    return _Encoded(split, number, label, name, content, suffix)


def _own_file(images: Images, number: int) -> tuple[bytes | None, str]:
    """The bytes of an image's own file, if it has one, and the ending of its name."""
    if isinstance(images, Subset):
        return _own_file(images.base, int(images.indices[number]))
    if isinstance(images, ImageFiles):
        path = Path(images.name(number))
        try:
            return path.read_bytes(), path.suffix.lower()
        except OSError as error:
            raise VitrellisError(f"{path}: cannot be read: {error.strerror}") from None
    if isinstance(images, EncodedImages):
        content = images.encoded(number)
        return content, _suffix_of(content, images.name(number))
    return None, ""


def _suffix_of(content: bytes, name: str) -> str:
    """The usual ending of an image file's name, which images in a container may lack."""
    suffix = Path(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    found = (ending for magic, ending in _MAGIC.items() if content.startswith(magic))
    return next(found, ".img")


def _shrunk(pixels: Tensor, size: int) -> tuple[bytes, str]:
    image = _picture(pixels)
    if image is None:
        raise UsageError("images of other than 1 or 3 channels cannot be shrunk; leave --size out")
    factor = size / min(image.size)
    goal = (round(image.width * factor), round(image.height * factor))
    buffer = io.BytesIO()
    image.resize(goal, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue(), ".jpg"


def _lossless(pixels: Tensor) -> tuple[bytes, str]:
    image = _picture(pixels)
    buffer = io.BytesIO()
    if image is None:
        np.save(buffer, pixels.permute(1, 2, 0).contiguous().numpy(), allow_pickle=False)
        return buffer.getvalue(), ".npy"
    image.save(buffer, "PNG")
    return buffer.getvalue(), ".png"


def _picture(pixels: Tensor) -> Image.Image | None:
    """A Pillow image of `(C, H, W)`, or None if it has neither one nor three channels."""
    if len(pixels) == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray(pixels[0].contiguous().numpy()) if len(pixels) == 1 else None


def verify(path: Path, progress: ProgressCallback | None = None) -> int:
    """Reads every image of a packed dataset, and compares it with its checksum.

    Args:
        path: The LMDB file, or the folder of the shards.
        progress: Called with the number of images that are done, and of all images.

    Returns:
        The number of images.

    Raises:
        VitrellisError: If anything is damaged; names up to `NAMED` images, and counts them all.
    """
    container, index = open_packed(path)
    total = sum(len(split.labels) for split in index.splits.values())
    bad: list[str] = []
    done = 0
    for name, split in index.splits.items():
        for number, digest in enumerate(split.digests):
            key = place_key(split.places[number]) if split.places else image_key(name, number)
            where = f"{path}: image {number} of {name} ({split.names[number]})"
            try:
                content = container.read(key)
                if hashlib.sha256(content).hexdigest() != digest:
                    bad.append(f"{where}: differs from its checksum")
                else:
                    decode_image(content, index.channels, where)
            except VitrellisError as error:
                bad.append(str(error))
            done += 1
            if progress is not None:
                progress(done, total)
    if len(bad) == 1:
        raise VitrellisError(bad[0])
    if bad:
        more = [f"and {len(bad) - NAMED:,} more"] if len(bad) > NAMED else []
        lines = "\n  ".join(bad[:NAMED] + more)
        raise VitrellisError(f"{len(bad):,} of {total:,} images are damaged:\n  {lines}")
    return total


def open_packed(path: Path) -> tuple[LmdbFile | TarShards, PackIndex]:
    """A packed dataset, and its index.

    Raises:
        VitrellisError: If it is none.
    """
    if path.is_dir() and (path / INDEX_FILE).is_file():
        index = read_index((path / INDEX_FILE).read_bytes(), str(path / INDEX_FILE))
        return TarShards(str(path), index.shards), index
    if path.is_file():
        container = LmdbFile(path)
        return container, read_index(container.index_bytes(), str(path))
    if not path.exists():
        raise VitrellisError(
            f"{path}: no such file or folder. `vitrellis data pack` writes what is verified here"
        )
    raise VitrellisError(
        f"{path}: has no index, so that `vitrellis data pack` did not write it. A dataset that is "
        f"not packed is checked by `vitrellis data inspect {path}`"
    )
