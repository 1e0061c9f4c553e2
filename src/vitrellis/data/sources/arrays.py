"""Images in NumPy arrays: an `.npz` archive, or `.npy` files that are mapped into memory.

The arrays of a split are called as in MedMNIST (`train_images`, `train_labels`, and `val_` and
`test_` likewise), as in Keras (`x_train`, `y_train`, ...), or just `images` and `labels` for
training. `.npy` files stay on disk: an image is copied when it is needed. No pickle is ever read.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.data.channels import to_channels
from vitrellis.data.source import Source, Split
from vitrellis.data.sources.decoding import DAMAGE
from vitrellis.data.sources.names_in_files import check_class_numbers, class_names_in
from vitrellis.errors import UsageError, VitrellisError

ChannelsAt = Literal["first", "last"]
_Array = npt.NDArray[Any]
_SPLITS = ("train", "val", "test")
_PROBE_IMAGES = 64  # of a memory map, whose pixels are part of the digest: it may be huge
_CONTENTS = "an .npz archive or .npy files, named or keyed train_images, train_labels, and so on"


def load_arrays(
    root: Path | None,
    channels: int | None = None,
    *,
    file: str | None = None,
    channels_at: ChannelsAt | None = None,
) -> Source:
    """Images and labels in arrays. Classes have the names in `classes.txt`, else their numbers.

    Args:
        root: The `.npz` file, or the folder of it or of the `.npy` files.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.
        file: The name of the archive, if the folder holds several.
        channels_at: "first" for images `(N, C, H, W)`, "last" for `(N, H, W, C)`. It is needed
            only if the shape does not tell.

    Raises:
        UsageError: If an argument has another value.
        VitrellisError: If an array is missing, damaged, or has another shape or type.
    """
    if channels_at not in (None, "first", "last"):
        raise UsageError(f"data.args.channels_at: is {channels_at!r}; first or last is meant")
    place = _existing(root)
    archive = _archive(place, file)
    read, keys = open_npz(archive) if archive is not None else _npy(place)
    where = archive if archive is not None else place
    splits = array_splits(read, keys, where, channels=channels, channels_at=channels_at)
    folder = place if place.is_dir() else place.parent
    class_names = _class_names(splits, folder / "classes.txt")
    return Source(
        "arrays", class_names, splits["train"], splits.get("val"), splits.get("test")
    ).checked()


def array_splits(
    read: Callable[[str], _Array],
    keys: Iterable[str],
    where: Path,
    *,
    channels: int | None,
    channels_at: ChannelsAt | None = None,
) -> dict[str, Split]:
    """The splits that arrays hold, by name.

    Args:
        read: Reads the array of a key.
        keys: The keys of all arrays.
        where: The archive or folder, for messages.
        channels: The number of channels of every image; None to leave them as they are.
        channels_at: Where the channels are, if the shape does not tell.

    Raises:
        VitrellisError: If an array is missing, or has another shape or type.
    """
    present = set(keys)
    splits: dict[str, Split] = {}
    for split in _SPLITS:
        names = _keys_of(split, present)
        if names is not None:
            images, labels = names
            splits[split] = Split(
                ArrayImages.of(read(images), f"{where}: {images}", channels, channels_at),
                _labels(read(labels), f"{where}: {labels}"),
            )
    if "train" not in splits:
        found = ", ".join(sorted(present)) or "nothing"
        raise VitrellisError(f"{where}: should hold {_CONTENTS}; it holds {found}")
    for split, part in splits.items():
        if len(part.images) == 0:
            raise VitrellisError(f"{where}: the {split} split has no images")
    return splits


def open_npz(file: Path) -> tuple[Callable[[str], _Array], list[str]]:
    """A reader of the arrays of an archive, and their keys.

    Raises:
        VitrellisError: If the file is missing or damaged.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        keys = list(archive.files)
    except FileNotFoundError:
        raise VitrellisError(f"{file}: no such file") from None
    except (zipfile.BadZipFile, AttributeError, *DAMAGE) as error:
        raise VitrellisError(f"{file}: is no .npz archive, or damaged ({error})") from None

    def read(key: str) -> _Array:
        try:
            array: _Array = archive[key]
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, *DAMAGE) as error:
            raise VitrellisError(f"{file}: {key} cannot be read ({error})") from None
        return array

    return read, keys


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array, which may be a memory map of a file.

    Attributes:
        array: uint8 `(N, C, H, W)`, or `(N, H, W, C)` if `channels_last`.
        channels_last: Whether the last dimension holds the channels.
        channels: Channels of every image, converted if need be.
        where: The name of the array in messages.
    """

    array: _Array
    channels_last: bool
    channels: int
    where: str

    @classmethod
    def of(
        cls, array: _Array, where: str, channels: int | None, channels_at: ChannelsAt | None
    ) -> ArrayImages:
        """Checks the array, and finds out where its channels are.

        Raises:
            VitrellisError: If it holds no images, or where the channels are is not clear.
        """
        if array.dtype != np.uint8:
            raise VitrellisError(
                f"{where}: is {array.dtype}; images are uint8, from 0 to 255. Convert it once: "
                "np.save(FILE, (255 * images).round().astype('uint8')) for images in [0, 1]"
            )
        if array.ndim == 3:
            array = array[..., None]
            channels_at = "last"
        if array.ndim != 4 or 0 in array.shape[1:]:
            raise VitrellisError(
                f"{where}: has shape {array.shape}; images are (N, H, W), (N, H, W, C) or "
                "(N, C, H, W)"
            )
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if channels_at is None and last == first:
            raise VitrellisError(
                f"{where}: has shape {array.shape}, from which it is not clear where the channels "
                "are; set data.args.channels_at=last for (N, H, W, C), or first for (N, C, H, W)"
            )
        is_last = channels_at == "last" if channels_at is not None else last
        own = array.shape[3] if is_last else array.shape[1]
        if channels is not None and channels != own and {channels, own} != {1, 3}:
            raise VitrellisError(f"{where}: has {own} channels, which cannot be made {channels}")
        return cls(array, is_last, channels or own, where)

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels."""
        height, width = self.array.shape[1:3] if self.channels_last else self.array.shape[2:4]
        return int(height), int(width)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        pixels = torch.from_numpy(np.array(self.array[index]))
        pixels = pixels.permute(2, 0, 1).contiguous() if self.channels_last else pixels
        return to_channels(pixels, self.channels, self.name(index))

    def name(self, index: int) -> str:
        """The array and the image's number."""
        return f"{self.where}[{index}]"

    def fingerprint(self) -> str:
        """A digest of all pixels; of a memory map, of some images that are evenly spread."""
        digest = hashlib.sha256(f"{self.array.shape} {self.channels}".encode())
        mapped = isinstance(self.array, np.memmap)
        count = min(_PROBE_IMAGES, len(self)) if mapped else len(self)
        for index in np.linspace(0, len(self) - 1, count).astype(int):
            digest.update(np.ascontiguousarray(self.array[index]).tobytes())
        return digest.hexdigest()


def _existing(root: Path | None) -> Path:
    if root is None:
        raise VitrellisError(f"source 'arrays' needs data.root: {_CONTENTS}")
    place = root.expanduser()
    if not place.exists():
        raise VitrellisError(
            f"data.root: no such folder or file: {place}. It should be {_CONTENTS}"
        )
    return place


def _archive(place: Path, file: str | None) -> Path | None:
    """The archive to read; None if the folder holds `.npy` files."""
    if place.is_file():
        return place
    if file is not None:
        return place / file
    archives = sorted(place.glob("*.npz"))
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise UsageError(f"data.args.file: not given, and {place} holds {names}; name one of them")
    return archives[0] if archives else None


def _npy(folder: Path) -> tuple[Callable[[str], _Array], list[str]]:
    files = {path.stem: path for path in sorted(folder.glob("*.npy"))}

    def read(key: str) -> _Array:
        try:
            array: _Array = np.lib.format.open_memmap(files[key], mode="r")
        except DAMAGE as error:
            raise VitrellisError(f"{files[key]}: is no .npy file, or damaged ({error})") from None
        return array

    return read, list(files)


def _keys_of(split: str, present: set[str]) -> tuple[str, str] | None:
    """The keys of a split's images and labels, if both are there."""
    pairs = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
    if split == "train":
        pairs.append(("images", "labels"))
    return next((pair for pair in pairs if present.issuperset(pair)), None)


def _labels(array: _Array, where: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        raise VitrellisError(
            f"{where}: has {array.shape[1]} columns; each image has one class here, and sets in "
            "which an image has several labels cannot be learned"
        )
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise VitrellisError(
            f"{where}: is {array.dtype} of shape {array.shape}; labels are whole numbers, (N,)"
        )
    return torch.from_numpy(np.array(array, dtype=np.int64))


def _class_names(splits: Mapping[str, Split], names_file: Path) -> tuple[str, ...]:
    labels = [label for split in splits.values() for label in split.labels.tolist()]
    check_class_numbers(labels, names_file.parent)
    highest = max(labels)
    if not names_file.is_file():
        return tuple(str(number) for number in range(highest + 1))
    return class_names_in(names_file.read_text(errors="replace"), highest, names_file)


LAYOUTS = {"arrays": load_arrays}
RECOGNIZED_BY = {
    "arrays": lambda root: (
        root.suffix == ".npz"
        or any(root.glob("*.npz"))
        or any(_keys_of("train", {path.stem for path in root.glob("*.npy")}) or ())
    )
}
