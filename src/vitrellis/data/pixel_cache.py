"""Decoded images that outlive a run: files of pixels in a cache folder, mapped into memory.

The first run on a set of image files decodes them into one file; later runs map that file and begin
at once, and no epoch decodes anything. All processes of a computer share the mapped pages.

A file's name is a digest of everything that its pixels depend on: the images' fingerprint; length,
time of change and time of the last change of status of each file that they come from; how images
are brought to the size at which they are stored; and the versions of what decodes and resizes. So
an image that is replaced is noticed even if its name, length and date stay. To read all its bytes
for that would take a large set as long as an epoch.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import PIL
import simplejpeg
import torch
from torch import Tensor

from vitrellis.data.augmentation.threads import pool_of_threads
from vitrellis.data.canvas import OwnShape, ProgressCallback, StoredSize, mean_pixels
from vitrellis.data.pillow_resize import interleaved
from vitrellis.data.pixel_file import PixelFile, write_pixels
from vitrellis.data.source import Images, Subset
from vitrellis.data.sources.encoded import EncodedImages
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import VitrellisError
from vitrellis.user_cache import user_cache

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be moved to its place either
    IS_POSSIBLE = False
else:
    IS_POSSIBLE = True

FORMAT = 1
"""To be raised when files, or the way from an image file to pixels, change."""
WORTHWHILE = 1 << 26
"""Bytes of pixels from which a set is kept: a second or two of decoding."""
DISK_SHARE = 0.5
"""Greatest share of the free disk that a new file takes."""
_LEAST_OF_BASE = 0.5
"""Share of the images of a collection from which all of them are kept instead: the subset depends
on the seed of the validation split."""
_AHEAD = 64  # images that are decoded and not yet written

Result = TypeVar("Result")


def default_folder() -> Path | None:
    """The cache folder, in that of the user; None for a user without a home."""
    folder = user_cache()
    return None if folder is None else folder / "pixels"


def digest_of_pixels(images: Images, stored: StoredSize | OwnShape) -> str | None:
    """The digest of everything that pixels depend on; None if the images are no files here."""
    files = _files(images)
    if files is None:
        return None
    versions = (FORMAT, PIL.__version__, simplejpeg.__version__, torch.__version__)
    cpu = torch.backends.cpu.get_cpu_capability()  # resizing may differ by a grey level
    digest = hashlib.sha256(f"{versions} {cpu} {stored} {images.fingerprint()}".encode())
    try:
        for path in files:
            facts = path.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns},".encode())
    except OSError:
        return None  # reading the images will say what is wrong
    return digest.hexdigest()[:32]


class DecodedImages:
    """Some of the images of a file of pixels, in some order.

    Args:
        file: The file.
        numbers: `(n,)` int64, the number in the file of each image.
        decode: Reads the image of a position anew, uint8 `(C, H, W)`.

    Attributes:
        sizes: `(n, 2)` int64 heights and widths.
        channels: Channels of every image.
    """

    def __init__(self, file: PixelFile, numbers: Tensor, decode: Callable[[int], Tensor]) -> None:
        self._file = file
        self._numbers: list[int] = numbers.tolist()
        self._decode = decode
        self.sizes = file.sizes[numbers]
        self.channels = file.channels

    def __len__(self) -> int:
        return len(self._numbers)

    def subset(self, positions: Tensor) -> DecodedImages:
        """The images at some positions, `(m,)` int64."""
        decode = self._decode
        return DecodedImages(
            self._file,
            torch.tensor(self._numbers)[positions],
            lambda position: decode(int(positions[position])),
        )

    def stacked(self) -> Tensor:
        """A copy of all images, uint8 `(n, C, H, W)`, if they have one size."""
        out = torch.empty(len(self), self.channels, *self.sizes[0].tolist(), dtype=torch.uint8)
        for position, place in enumerate(out):
            place.copy_(self[position])
        return out

    def __getitem__(self, position: int) -> Tensor:
        """uint8 `(C, H, W)`, the channels of a pixel side by side; never to be written to.

        An image whose pixels are damaged is decoded, and the file goes, so that the next run writes
        it anew.

        Raises:
            VitrellisError: If they are damaged, and the image itself cannot be read any more.
        """
        image = self._file.read(self._numbers[position])
        if image is None:
            with suppress(OSError):  # it may be another user's
                self._file.path.unlink(missing_ok=True)
            image = self._decode(position)
        return image


@dataclass(frozen=True)
class PixelCache:
    """A folder of files of pixels.

    Attributes:
        folder: The folder, which is made if it is missing.
        limit: Greatest number of bytes of all files; those that were used longest ago make room.
        worthwhile: Number of bytes from which a set is kept.
    """

    folder: Path
    limit: int
    worthwhile: int = WORTHWHILE

    def open(
        self,
        images: Images,
        stored: StoredSize | OwnShape,
        progress: ProgressCallback | None = None,
    ) -> DecodedImages | None:
        """The images as they are stored, decoded now if no earlier run has done so.

        Args:
            images: The images.
            stored: Brings each to the size at which it is stored.
            progress: Called after every image that is decoded.

        Returns:
            None if they cannot be kept: they come from no files of this computer, there is no room
            or no right to write, or they are so few that it is not worth while.

        Raises:
            VitrellisError: If an image cannot be read.
        """
        base, numbers = _base(images)
        key = digest_of_pixels(base, stored)
        if key is None:
            return None
        path = self.folder / f"{key}.pixels"

        def known() -> DecodedImages | None:
            file = _opened(path, numbers)
            if file is None:
                return None
            return DecodedImages(
                file, numbers, lambda position: interleaved(stored(images[position]))
            )

        try:
            found = known()
            needed = 0.0
            if found is None:  # of the images alone: others may be bad
                needed = _mean_bytes(images, stored) * len(base)
            if found is None and self._has_room(needed):
                self.folder.mkdir(parents=True, exist_ok=True)
                with _exclusive(path.with_suffix(".unfinished")) as file:
                    found = known()  # another process has written it meanwhile
                    if found is None:
                        self._make_room(needed)
                        read = _decoded(base, stored, set(numbers.tolist()), progress)
                        is_whole = write_pixels(file, read, base.channels, self.limit)
                        # else an image has been replaced meanwhile
                        if is_whole and digest_of_pixels(base, stored) == key:
                            Path(file.name).replace(path)
                            found = known()
        except OSError:  # a full disk, somebody else's folder: a cache is not worth an error
            return None
        return found

    def _has_room(self, needed: float) -> bool:
        if not IS_POSSIBLE:
            return False
        above = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(above).free
        return self.worthwhile <= needed <= min(self.limit, DISK_SHARE * free)

    def _make_room(self, needed: float) -> None:
        """Removes files that no process finished, and those that were used longest ago."""
        for path in self.folder.glob("*.unfinished"):
            with path.open("rb") as file:
                if _is_free(file):
                    path.unlink(missing_ok=True)
        files = [(path.stat().st_mtime_ns, path) for path in self.folder.glob("*.pixels")]
        used = sum(path.stat().st_size for _, path in files)
        for _, path in sorted(files):
            if used + needed <= self.limit:
                break
            used -= path.stat().st_size
            path.unlink(missing_ok=True)  # whoever has mapped it keeps it until it ends


def _opened(path: Path, numbers: Tensor) -> PixelFile | None:
    """The file, if it is sound and has these images; a damaged one is removed."""
    if not path.exists():
        return None
    try:
        file = PixelFile(path)
    except VitrellisError:
        path.unlink(missing_ok=True)
        return None
    if bool((file.sizes[numbers] == 0).any()):
        return None
    with suppress(OSError):
        os.utime(path)
    return file


def _mean_bytes(images: Images, stored: StoredSize | OwnShape) -> float:
    """The mean number of bytes of stored images; of some of them if they have no common size."""
    size = None if isinstance(stored, OwnShape) else stored.size
    return images.channels * (mean_pixels(images, stored) if size is None else size[0] * size[1])


def _base(images: Images) -> tuple[Images, Tensor]:
    """The collection that is kept, and the number in it of each of the images."""
    numbers = torch.arange(len(images))
    collection = images
    while isinstance(collection, Subset):
        numbers, collection = collection.indices[numbers], collection.base
    if len(numbers) < _LEAST_OF_BASE * len(collection):
        return images, torch.arange(len(images))
    return collection, numbers


def _files(images: Images) -> Iterator[Path] | None:
    """The files that images come from; None if they are in memory or elsewhere."""
    if isinstance(images, Subset):
        if isinstance(images.base, ImageFiles):
            base = images.base
            return (base.root / base.paths[number] for number in images.indices.tolist())
        return _files(images.base)
    if isinstance(images, ImageFiles):
        return (images.root / path for path in images.paths)
    if isinstance(images, EncodedImages):
        files = images.container.files()
        return None if files is None else iter(files)
    return None


def _decoded(
    images: Images,
    stored: StoredSize | OwnShape,
    wanted: set[int],
    progress: ProgressCallback | None,
) -> Iterator[Tensor | None]:
    """All images as they are stored, in order; None for those that nobody wants, if they are bad.

    Threads decode some ahead, so that memory stays flat.
    """

    def read(number: int) -> Tensor | None:
        try:
            return stored(images[number])
        except VitrellisError:
            if number in wanted:
                raise
            return None

    with pool_of_threads(os.cpu_count() or 1, "decoding") as pool:
        for count, image in enumerate(_in_order(pool, read, range(len(images))), start=1):
            yield image
            if progress is not None:
                progress(count, len(images))


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], Result], numbers: Sequence[int]
) -> Iterator[Result]:
    """As `pool.map`, but only so many ahead."""
    remaining = iter(numbers)
    ahead = deque(pool.submit(work, number) for number in itertools.islice(remaining, _AHEAD))
    try:
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(work, number) for number in itertools.islice(remaining, 1))
    finally:
        _cancel(ahead)


def _cancel(futures: deque[Future[Result]]) -> None:
    for future in futures:
        future.cancel()


@contextmanager
def _exclusive(path: Path) -> Iterator[BinaryIO]:
    """An empty file that no other process writes to, and that goes unless it is moved away."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue  # whoever had it has finished it
            file.truncate(0)
            try:
                yield file
            finally:
                if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    path.unlink()
            return


def _is_free(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
