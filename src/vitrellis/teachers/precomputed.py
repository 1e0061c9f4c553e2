"""A teacher's outputs for all training images, computed once and stored on disk (offline guidance).

A store is a folder. `features.json` holds its key and the number of images that are done.
`logits.npy` and a `map_N.npy` for each block hold one row for each training image; they are mapped
into memory, so that they may be larger than the memory. `crc32.npy` holds a checksum of each row in
each of them, which is checked when the row is read. A store that was interrupted is resumed.

The method was published for locality guidance (github.com/lkhl/tiny-transformers), where the maps
of images without augmentation are stored, and crops and flips are applied to the maps, too.

How we differ: maps are sampled at the positions from which the crop, the flips and RandAugment's
warps take the image, not moved by whole cells; logits are stored as well; the teacher is in eval
mode; and a store is only used for the teacher, the images and the preprocessing of its key.
"""

from __future__ import annotations

import hashlib
import json
import os
import tokenize
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.augmentation.warps import sample_maps
from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.loader import Batch, EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.models import check_finite_outputs
from vitrellis.objectives import Needs, TeacherOutput
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json
from vitrellis.runs.results import parse
from vitrellis.teachers.teacher import Teacher

SAVE_EVERY = 32
"""The number of batches between two writes to the disk."""

PROGRESS = "features.json"
"""The file with the key of a store and the number of images that are done."""

CHECKSUMS = "crc32"
"""The name of the array of checksums."""

CHECKED_TOGETHER = 256
"""The number of rows that `PrecomputedOutputs.check` reads at once."""

DAMAGED_NPY = (EOFError, KeyError, SyntaxError, TypeError, UnicodeDecodeError, tokenize.TokenError)
"""The errors that numpy raises on a damaged header, besides ValueError."""


@dataclass(frozen=True)
class PrecomputedKey:
    """The facts that the content of a store depends on.

    Attributes:
        teacher: The digest of the teacher's weights.
        images: The fingerprint of the images.
        shown: The preprocessing of the images for the teacher, in words.
        blocks: The blocks whose maps are stored.
        precision: The precision of the stored values.
    """

    teacher: str
    images: str
    shown: str
    blocks: tuple[int, ...]
    precision: Literal["float32", "float16"]

    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the key."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class PrecomputedOutputs:
    """A teacher's outputs on disk.

    Args:
        folder: The folder of the store.
        key: The key that the store must have.
        count: The number of training images.

    Raises:
        VitrellisError: If the folder holds a store with another key, or a damaged one.
    """

    def __init__(self, folder: Path, key: PrecomputedKey, count: int) -> None:
        self.folder = folder
        self.key = key
        self.count = count
        self._files: dict[str, np.memmap] = {}
        self._names = ("logits", *(f"map_{block}" for block in key.blocks))
        self._has_checksums = True
        self.num_done = self._read_progress()

    @property
    def is_complete(self) -> bool:
        """Whether the outputs for every image are stored."""
        return self.num_done == self.count

    def fill(
        self, teacher: Teacher, loader: EvalLoader, progress: ProgressCallback | None = None
    ) -> None:
        """Computes and stores the outputs that are missing.

        Args:
            teacher: The teacher, on the loader's device.
            loader: The training images, in order and without augmentation.
            progress: Called after every batch, with the numbers of images done and of all images.

        Raises:
            VitrellisError: If the store cannot be written, or an output is not finite: it names the
                image and the first weight or module, or says that the precision is too low.
        """
        needs = Needs(teacher_blocks=self.key.blocks, teacher_logits=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        first = 0
        for number, batch in enumerate(loader):
            last = first + len(batch.images)
            if last > self.num_done:
                output = teacher(batch.images, needs)
                assert output.logits is not None
                named = {f"map_{block}": maps for block, maps in output.maps.items()}
                for name, values in ({"logits": output.logits} | named).items():
                    check_finite_outputs(
                        teacher.model,
                        teacher.view(batch.images),
                        values,
                        lambda position: loader.name(first + position),  # noqa: B023
                    )
                    self._write(name, values, first)
                if number % SAVE_EVERY == SAVE_EVERY - 1 or last == self.count:
                    self._save(last)
            first = last
            if progress is not None:
                progress(last, self.count)

    def read(self, indices: Tensor, needs: Needs) -> TeacherOutput:
        """The outputs for some images without augmentation.

        Args:
            indices: `(b,)` int64, the numbers of the training images.
            needs: The outputs to read.

        Returns:
            The outputs in float32, on the device of `indices`.
        """
        assert self.is_complete, "an incomplete store was read"
        rows = indices.cpu().numpy()
        logits = self._take("logits", rows, indices.device) if needs.teacher_logits else None
        maps = {b: self._take(f"map_{b}", rows, indices.device) for b in needs.teacher_blocks}
        return TeacherOutput(logits, maps)

    def check(self) -> None:
        """Reads everything that is stored.

        Raises:
            VitrellisError: If a file or a row of it is damaged.
        """
        for name in self._names if self.num_done else ():
            for first in range(0, self.num_done, CHECKED_TOGETHER):
                self._rows(name, np.arange(first, min(first + CHECKED_TOGETHER, self.num_done)))

    def _take(self, name: str, rows: np.ndarray, device: torch.device) -> Tensor:
        return torch.from_numpy(self._rows(name, rows)).to(device, torch.float32)

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a file, if they are as they were written."""
        values = self._open(name)[rows]
        if self._has_checksums:
            column = self._names.index(name)
            wrong = np.flatnonzero(_crc32(values) != self._open(CHECKSUMS)[rows, column])
            if len(wrong):
                raise VitrellisError(
                    f"{self.folder / name}.npy: damaged: what is stored for image "
                    f"{rows[wrong[0]]} is not what was written (another checksum). Delete "
                    f"{self.folder}, and the outputs are computed again"
                )
        return values

    def _open(self, name: str) -> np.memmap:
        if name not in self._files:
            path = self.folder / f"{name}.npy"
            try:
                mapped = np.lib.format.open_memmap(path, mode="r+")
                expected = np.dtype(np.uint32 if name == CHECKSUMS else self.key.precision)
                if mapped.dtype != expected or not mapped.ndim or len(mapped) != self.count:
                    raise ValueError(f"it holds {mapped.dtype} of shape {mapped.shape}")
                self._files[name] = mapped
            except (*DAMAGED_NPY, OSError, ValueError) as error:
                raise VitrellisError(
                    f"{path}: missing or damaged ({error}). Delete {self.folder}, and the outputs "
                    "are computed again"
                ) from error
        return self._files[name]

    def _write(self, name: str, values: Tensor, first: int) -> None:
        path = self.folder / f"{name}.npy"
        self._create(name, (self.count, *values.shape[1:]), self.key.precision)
        largest = np.finfo(self.key.precision).max
        if values.abs().max() > largest:
            raise VitrellisError(
                f"{path}: not written, because {name} reach {values.abs().max().item():.3g}, and "
                f"{self.key.precision} ends at {largest:.3g}. Use offline_precision: float32"
            )
        rows = values.float().cpu().numpy().astype(self.key.precision)
        self._open(name)[first : first + len(values)] = rows
        if self._has_checksums:
            self._create(CHECKSUMS, (self.count, len(self._names)), "uint32")
            column = self._names.index(name)
            self._open(CHECKSUMS)[first : first + len(values), column] = _crc32(rows)

    def _create(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Makes the file of an array, if it is missing."""
        path = self.folder / f"{name}.npy"
        if name in self._files or path.exists():
            return
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape).flush()
            _reserve(unfinished)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise VitrellisError(
                f"could not write {path}: {error.strerror}. Make room, and run the same command "
                "again"
            ) from error

    def _save(self, num_done: int) -> None:
        for mapped in self._files.values():
            mapped.flush()
        checked = {"checksums": True} if self._has_checksums else {}
        values = self._description() | checked | {"done": num_done}
        write_sealed_json(self.folder / PROGRESS, values)
        self.num_done = num_done

    def _description(self) -> dict[str, object]:
        return asdict(self.key) | {"blocks": list(self.key.blocks), "count": self.count}

    def _read_progress(self) -> int:
        """The number of images whose outputs are stored; 0 if there is no store yet."""
        path = self.folder / PROGRESS
        if not path.exists():
            return 0
        try:
            values = read_sealed_json(path, is_sealed=True)
        except VitrellisError as error:
            raise VitrellisError(f"{error}. Delete {self.folder}") from error
        if not isinstance(values, dict) or not isinstance(values.get("done"), int):
            raise VitrellisError(f"{path}: damaged (done is missing). Delete {self.folder}")
        num_done: int = values.pop("done")
        self._has_checksums = values.pop("checksums", False) is True
        if values != self._description():
            raise VitrellisError(
                f"{self.folder}: holds outputs of another teacher, or of other images. Delete it"
            )
        return num_done


class PrecomputedTeacher:
    """Gives stored outputs in place of the teacher's outputs for the augmented images.

    Args:
        store: The store, which must be complete.
        transform: The augmentation of the student's images.
        stored: The size `(H, W)` of the images before augmentation; None if they keep their own
            shape, which batches then tell.
    """

    def __init__(
        self, store: PrecomputedOutputs, transform: TrainTransform, stored: tuple[int, int] | None
    ) -> None:
        self.store = store
        self.transform = transform
        self.stored = stored

    def __call__(self, batch: Batch, needs: Needs) -> TeacherOutput:
        """The outputs that the active terms need. Logits are those of the whole image.

        Args:
            batch: The batch, of which the indices, keys and sizes are read, not the images.
            needs: The outputs that the terms need of the teacher.
        """
        output = self.store.read(batch.indices, needs)
        if not output.maps:
            return output
        sizes = batch.sizes if self.stored is None else torch.tensor([self.stored])  # (b or 1, 2)
        assert sizes is not None, "a loader of images at their own shape tells their sizes"
        # the whole image has sides of 1
        matrices = self.transform.origins(batch.keys, sizes) / sizes.flip(1)[:, :, None]
        sides = torch.ones(2)
        maps = {
            block: sample_maps(maps, matrices, self.transform.size, sides)
            for block, maps in output.maps.items()
        }
        return TeacherOutput(output.logits, maps)


def check_store(folder: Path) -> int:
    """Reads a store whose key is not known.

    Args:
        folder: A folder with a `features.json`.

    Returns:
        The number of images whose outputs are stored.

    Raises:
        VitrellisError: If a file of it is damaged or missing.
    """
    path = folder / PROGRESS
    values = read_sealed_json(path, is_sealed=True)
    about = parse(_Described, values, path)
    key = PrecomputedKey(about.teacher, about.images, about.shown, about.blocks, about.precision)
    store = PrecomputedOutputs(folder, key, about.count)
    store.check()
    return store.num_done


@dataclass(frozen=True)
class _Described(PrecomputedKey):
    """The content of `features.json`, as far as it tells a store from another."""

    count: int


def _reserve(file: Path) -> None:
    """Makes room on the disk for a whole file.

    Where it was missing when a page of a memory map is written, the system would end the process.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _crc32(rows: np.ndarray) -> np.ndarray:
    """`(N,)` uint32: a checksum of the bytes of each row."""
    whole = np.ascontiguousarray(rows)
    return np.array([zlib.crc32(row.data) for row in whole], dtype=np.uint32)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """A hexadecimal digest, which is equal for equal weights.

    Args:
        state: The state dict of a module.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        values = state[name].detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
