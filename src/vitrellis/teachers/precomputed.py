"""What a teacher says of every training image, asked once and kept on disk (offline guidance).

A store is a folder: `features.json` says what it is of and how far it is, `logits.npy` and a
`map_N.npy` for each block hold one row for each training image, and are mapped into memory, so that
they may be larger than it. A store that was stopped goes on where it was.

Published for locality guidance (github.com/lkhl/tiny-transformers), where the stored maps are those
of un-augmented images, and crops and flips are done to them, too.

How we differ: maps are sampled where the crop, the flips and RandAugment's warps of the image come
from, not moved by whole cells; logits are kept as well; the teacher is in eval mode; and a store is
only used for the teacher, the images and the preprocessing that it was made with.
"""

from __future__ import annotations

import hashlib
import json
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
from vitrellis.data.formats.json_files import read_json
from vitrellis.data.loader import Batch, EvalLoader
from vitrellis.errors import VitrellisError
from vitrellis.objectives import Needs, TeacherOutput
from vitrellis.runs.atomic import write_json
from vitrellis.teachers.teacher import Teacher

SAVE_EVERY = 32
"""Batches between the moments at which what is done is made safe."""


@dataclass(frozen=True)
class PrecomputedKey:
    """What a store is of.

    Attributes:
        teacher: Digest of the teacher's weights.
        images: Fingerprint of the images.
        shown: How they were shown to the teacher, in words.
        blocks: Whose maps are kept.
        precision: Of what is kept.
    """

    teacher: str
    images: str
    shown: str
    blocks: tuple[int, ...]
    precision: Literal["float32", "float16"]

    def digest(self) -> str:
        """Twelve hexadecimal digits that name it."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class PrecomputedOutputs:
    """A teacher's answers on disk.

    Args:
        folder: Of the store.
        key: What it has to be of.
        count: Training images.

    Raises:
        VitrellisError: If the folder holds something else, or a damaged store.
    """

    def __init__(self, folder: Path, key: PrecomputedKey, count: int) -> None:
        self.folder = folder
        self.key = key
        self.count = count
        self._files: dict[str, np.memmap] = {}
        self.num_done = self._read_progress()

    @property
    def is_complete(self) -> bool:
        """Whether every image has been asked about."""
        return self.num_done == self.count

    def fill(
        self, teacher: Teacher, loader: EvalLoader, progress: ProgressCallback | None = None
    ) -> None:
        """Asks the teacher about the images that are missing.

        Args:
            teacher: On the loader's device.
            loader: Of the training images, in order, un-augmented.
            progress: Told of every batch how many images are done, and of how many.

        Raises:
            VitrellisError: If the store cannot be written.
        """
        needs = Needs(teacher_blocks=self.key.blocks, teacher_logits=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        first = 0
        for number, batch in enumerate(loader):
            last = first + len(batch.images)
            if last > self.num_done:
                output = teacher(batch.images, needs)
                assert output.logits is not None
                self._write("logits", output.logits, first)
                for block, maps in output.maps.items():
                    self._write(f"map_{block}", maps, first)
                if number % SAVE_EVERY == SAVE_EVERY - 1 or last == self.count:
                    self._save(last)
            first = last
            if progress is not None:
                progress(last, self.count)

    def read(self, indices: Tensor, needs: Needs) -> TeacherOutput:
        """The answers about some images as they are.

        Args:
            indices: `(b,)` int64, numbers of training images.
            needs: What of them.

        Returns:
            float32 on the device of `indices`.
        """
        assert self.is_complete, "an incomplete store was read"
        rows = indices.cpu().numpy()
        logits = self._take("logits", rows, indices.device) if needs.teacher_logits else None
        maps = {b: self._take(f"map_{b}", rows, indices.device) for b in needs.teacher_blocks}
        return TeacherOutput(logits, maps)

    def _take(self, name: str, rows: np.ndarray, device: torch.device) -> Tensor:
        return torch.from_numpy(self._open(name)[rows]).to(device, torch.float32)

    def _open(self, name: str) -> np.memmap:
        if name not in self._files:
            path = self.folder / f"{name}.npy"
            try:
                self._files[name] = np.lib.format.open_memmap(path, mode="r+")
            except (OSError, ValueError) as error:
                raise VitrellisError(
                    f"{path}: missing or damaged ({error}). Delete {self.folder}, and the answers "
                    "are asked for again"
                ) from error
        return self._files[name]

    def _write(self, name: str, values: Tensor, first: int) -> None:
        path = self.folder / f"{name}.npy"
        if name not in self._files and not path.exists():
            shape = (self.count, *values.shape[1:])
            try:
                self._files[name] = np.lib.format.open_memmap(
                    path, mode="w+", dtype=self.key.precision, shape=shape
                )
            except OSError as error:
                raise VitrellisError(f"could not write {path}: {error.strerror}") from error
        self._open(name)[first : first + len(values)] = values.float().cpu().numpy()

    def _save(self, num_done: int) -> None:
        for mapped in self._files.values():
            mapped.flush()
        write_json(self.folder / "features.json", self._description() | {"done": num_done})
        self.num_done = num_done

    def _description(self) -> dict[str, object]:
        return asdict(self.key) | {"blocks": list(self.key.blocks), "count": self.count}

    def _read_progress(self) -> int:
        """The images that the folder has answers of, 0 where there is no store yet."""
        path = self.folder / "features.json"
        if not path.exists():
            return 0
        try:
            values = read_json(path)
        except VitrellisError as error:
            raise VitrellisError(f"{error}. Delete {self.folder}") from error
        if not isinstance(values, dict) or not isinstance(values.get("done"), int):
            raise VitrellisError(f"{path}: damaged (done is missing). Delete {self.folder}")
        num_done: int = values.pop("done")
        if values != self._description():
            raise VitrellisError(
                f"{self.folder}: holds answers of another teacher, or of other images. Delete it"
            )
        return num_done


class PrecomputedTeacher:
    """Answers from a store, as if the teacher were asked about the augmented images.

    Args:
        store: Complete.
        transform: How the student's images are varied.
        stored: `(H, W)` of the images before that.
    """

    def __init__(
        self, store: PrecomputedOutputs, transform: TrainTransform, stored: tuple[int, int]
    ) -> None:
        self.store = store
        self.transform = transform
        self.stored = stored

    def __call__(self, batch: Batch, needs: Needs) -> TeacherOutput:
        """What the active terms need. Logits are those of the whole image.

        Args:
            batch: Its indices and keys are looked at, not its images.
            needs: Of the teacher.
        """
        output = self.store.read(batch.indices, needs)
        if not output.maps:
            return output
        matrices = self.transform.origins(batch.keys, self.stored)
        sides = torch.tensor(self.stored[::-1])
        maps = {
            block: sample_maps(maps, matrices, self.transform.size, sides)
            for block, maps in output.maps.items()
        }
        return TeacherOutput(output.logits, maps)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal digits that are equal for equal weights.

    Args:
        state: Of a module.
    """
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        values = state[name].detach().cpu().contiguous().flatten()
        found.update(values.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
