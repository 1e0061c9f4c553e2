"""Many image files: found in folders, inspected in parallel, decoded one by one when asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from torch import Tensor

from vitrellis.data.channels import chosen_channels
from vitrellis.data.source import Split
from vitrellis.data.sources.decoding import IMAGE_SUFFIXES, Header, read_header, read_image
from vitrellis.data.sources.stored_paths import StoredPaths
from vitrellis.errors import VitrellisError

_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
_PROBE_BYTES = 32 * 1024
_AT_ONCE = 500  # files that a thread looks for before it reports


class Listing(NamedTuple):
    """The files below a folder."""

    images: tuple[Path, ...]
    """Image files, sorted by path."""
    others: tuple[Path, ...]
    """Other files; hidden files and files that systems leave behind are in neither."""


def list_images(folder: Path) -> Listing:
    """All image files in `folder` and the folders below it. Links are followed.

    Raises:
        VitrellisError: If a folder cannot be read, or a link leads back to a folder above it.
    """
    files = sorted(_walk(folder, frozenset()))
    images = tuple(path for path in files if is_image(path))
    return Listing(images, tuple(path for path in files if not is_image(path)))


def is_image(path: Path) -> bool:
    """True if the file's name is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def visible(folder: Path) -> list[Path]:
    """The files and folders directly in `folder`, sorted; without hidden and systems' own files.

    Raises:
        VitrellisError: If the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise VitrellisError(f"{folder}: cannot be read: {error.strerror}") from None
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _CLUTTER]


def path_below(root: Path, path: str, file: Path | str) -> str:
    """`path`, if it leads to a place below `root`.

    Args:
        root: The folder that paths begin at.
        path: A path that a file names, with slashes.
        file: The file that names it, for the message.

    Raises:
        VitrellisError: If the path is absolute, or leads out of the folder by `..`.
    """
    on_windows = os.name == "nt"
    pure = PureWindowsPath(path) if on_windows else PurePosixPath(path)
    depth = 0
    is_below = not pure.anchor and "\0" not in path and _can_be_stored(path)
    for part in pure.parts:
        depth += -1 if part == ".." else 1
        is_below = is_below and depth >= 0
    if not is_below:
        raise VitrellisError(
            f"{file}: names {path!r}, which is outside {root}; paths are below that folder"
        )
    return path


def _can_be_stored(path: str) -> bool:
    """Whether a file system can have this name: JSON may hold halves of characters."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        raise VitrellisError(f"{folder}: is a link to {real}, a folder that contains it; remove it")
    for entry in visible(folder):
        if entry.is_dir():
            yield from _walk(entry, above | {real})
        else:
            yield entry


class Facts(NamedTuple):
    """The result of inspecting a file."""

    header: Header | None
    """None if it cannot be read."""
    digest: bytes
    """A digest of its length, its first and its last bytes; empty if it cannot be opened."""
    error: str = ""
    """The reason why it cannot be read."""


def inspect_files(paths: Sequence[Path]) -> list[Facts]:
    """Read the headers of all files, many at a time.

    Raises:
        VitrellisError: If there are files, and none can be read.
    """
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        results = list(pool.map(_inspect, paths))
    if results and all(result.header is None for result in results):
        more = f". None of the {len(paths):,} files can be read" if len(paths) > 1 else ""
        raise VitrellisError(results[0].error + more)
    return results


def _inspect(path: Path) -> Facts:
    try:
        header, error = read_header(path), ""
    except VitrellisError as reason:
        header, error = None, str(reason)
    if header is None and not path.is_file():  # a pipe, whose reader would wait for ever
        return Facts(None, b"", error)
    try:
        return Facts(header, digest_of_ends(path), error)
    except OSError as reason:
        return Facts(None, b"", error or f"{path}: cannot be read: {reason.strerror}")


def digest_of_ends(path: Path) -> bytes:
    """A digest of a file's length, its first and its last bytes.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        ends = file.read(_PROBE_BYTES)
        file.seek(max(_PROBE_BYTES, length - _PROBE_BYTES))
        ends += file.read(_PROBE_BYTES)
    return hashlib.sha256(length.to_bytes(8, "big") + ends).digest()


def _lengths(root: Path, paths: Sequence[str]) -> list[int | None]:
    """Lengths in bytes of files below `root`; None where there is no such file."""
    lengths: list[int | None] = []
    for path in paths:
        try:
            lengths.append((root / path).stat().st_size)
        except OSError:  # missing, or a link to itself, or a name that is too long
            lengths.append(None)
    return lengths


def channels_of(paths: Sequence[Path], facts: Sequence[Facts], wanted: int | None = None) -> int:
    """The number of channels that is wanted, or that suits all files: 1 only if all are grey.

    Raises:
        UsageError: If no file can have the number that is wanted.
        VitrellisError: If numbers of channels are mixed, other than grey and colour.
    """
    examples: dict[int, str] = {}
    for path, fact in zip(paths, facts, strict=True):
        if fact.header is not None:
            examples.setdefault(fact.header.channels, str(path))
    return chosen_channels(examples, wanted)


def file_splits(
    root: Path,
    paths: Mapping[str, Sequence[Path]],
    labels: Mapping[str, Tensor],
    channels: int | None,
) -> dict[str, Split]:
    """The splits of a dataset whose images are files; all headers are read at once.

    Args:
        root: The folder that contains the files.
        paths: The files of each split.
        labels: `(N,)` int64 class numbers of each split's files.
        channels: Channels of every image; None for those that suit all files.

    Raises:
        VitrellisError: If no file can be read, or numbers of channels are mixed.
    """
    everything = [path for part in paths.values() for path in part]
    facts = inspect_files(everything)
    channels = channels_of(everything, facts, channels)
    splits: dict[str, Split] = {}
    start = 0
    for name, part in paths.items():
        stop = start + len(part)
        images = ImageFiles.of(root, part, facts[start:stop], channels)
        splits[name] = Split(images, labels[name])
        start = stop
    return splits


@dataclass(frozen=True)
class ImageFiles:
    """Images that lie in files and are decoded when asked for.

    Attributes:
        root: The folder that contains them.
        paths: Each file's path below `root`.
        channels: Channels of every image, converted if need be.
        size: `(H, W)` if all have the same size, else None.
        digest: A digest of paths and lengths, and of the ends of files that were opened.
        value_range: The levels of 16-bit grey that become black and white; None for all of them.
        bad: The reason why an image cannot be read, by its number, where that is known already.
    """

    root: Path
    paths: StoredPaths
    channels: int
    size: tuple[int, int] | None
    digest: str
    value_range: tuple[int, int] | None = None
    bad: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, root: Path, paths: Sequence[Path], facts: Sequence[Facts], channels: int
    ) -> ImageFiles:
        """Collect files that have been inspected.

        Args:
            root: A folder above all of them.
            paths: The files.
            facts: What `inspect_files` returned for them.
            channels: Channels of every image, converted if need be.
        """
        relative = tuple(path.relative_to(root).as_posix() for path in paths)
        sizes = {fact.header.size for fact in facts if fact.header is not None}
        digest = hashlib.sha256("\n".join(relative).encode(errors="surrogateescape"))
        for fact in facts:
            digest.update(fact.digest)
        size = next(iter(sizes)) if len(sizes) == 1 else None
        bad = {index: fact.error for index, fact in enumerate(facts) if fact.header is None}
        return cls(root, StoredPaths(relative), channels, size, digest.hexdigest(), bad=bad)

    @classmethod
    def unopened(
        cls,
        root: Path,
        paths: Sequence[str],
        channels: int,
        size: tuple[int, int] | None = None,
        *,
        named_in: Path,
    ) -> ImageFiles:
        """Collect the files of a large dataset whose number of channels is known.

        Their existence and lengths are checked; none is opened.

        Args:
            root: A folder above all of them.
            paths: Each file's path below it.
            channels: Channels of every image, converted if need be.
            size: `(H, W)` if all have the same size.
            named_in: The file that names them, for messages.

        Raises:
            VitrellisError: If all are missing, or one is not below the folder.
        """
        for path in paths:
            path_below(root, path, named_in)
        parts = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
        with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
            lengths = [n for part in pool.map(lambda p: _lengths(root, p), parts) for n in part]
        bad = {
            index: f"{root / path}: no such file"
            for index, (path, length) in enumerate(zip(paths, lengths, strict=True))
            if length is None
        }
        if bad and len(bad) == len(paths):
            more = f". All {len(paths):,} files are missing that {named_in} names" * (len(bad) > 1)
            raise VitrellisError(f"{bad[0]}{more}")
        digest = hashlib.sha256("\n".join(paths).encode(errors="surrogateescape"))
        digest.update(",".join(map(str, lengths)).encode())
        return cls(root, StoredPaths(paths), channels, size, digest.hexdigest(), bad=bad)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.root / self.paths[index]
        image = read_image(path, self.channels, self.value_range)  # (C, H, W)
        if self.size is not None and tuple(image.shape[1:]) != self.size:
            raise VitrellisError(
                f"{path}: is {tuple(image.shape[1:])} pixels now and should be {self.size}, as all "
                "others when the folder was read; leave images alone during a run"
            )
        return image

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])

    def fingerprint(self) -> str:
        """A digest of names and lengths, and of the ends of opened files; dates do not matter."""
        return self.digest if self.value_range is None else f"{self.digest} {self.value_range}"
