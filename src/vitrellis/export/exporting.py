"""Writes a trained model for other programs, and keeps the file only if it predicts the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.source import Split
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.export.agreement import (
    TOLERANCES,
    Agreement,
    Classifier,
    compare,
    compare_at_another_size,
    require_agreement,
)
from vitrellis.export.description import Description, NumberFormat
from vitrellis.export.graph import export_program, obstacle_to_free_size
from vitrellis.export.onnx_classifier import OnnxClassifier
from vitrellis.export.onnx_writer import require_onnx, write_onnx
from vitrellis.export.timm_folder import TimmFolder, write_timm
from vitrellis.export.torch_program import ProgramClassifier, write_program
from vitrellis.runs.atomic import atomic_write, write_json
from vitrellis.runs.exported import Trained

Format = Literal["onnx", "torch-export", "timm"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "timm": ""}
"""The ending of a file of each format; timm's is a folder."""
_CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class RealImages:
    """Real images for an export.

    Attributes:
        checked: The images that the exported model is compared on.
        calibration: Training images, from which the ranges of 8-bit numbers are measured.
    """

    checked: Split
    calibration: Split


@dataclass(frozen=True)
class Target:
    """What to write, and where.

    Attributes:
        path: The file, or timm's folder.
        format: The kind of file.
        precision: The numbers that an ONNX file computes with.
        free_size: Whether height and width are free; None if the model allows it.
        force: Whether to replace what is there.
    """

    path: Path
    format: Format
    precision: NumberFormat = "float32"
    free_size: bool | None = None
    force: bool = False

    @property
    def sidecar(self) -> Path:
        """The JSON file with the description, beside an exported file."""
        return self.path.with_name(f"{self.path.name}.json")

    def check(self) -> None:
        """Refuses options that do not go together, and a path that is taken.

        Raises:
            UsageError: Naming the option.
            VitrellisError: If something is there already, or a package is missing.
        """
        ending = ENDINGS[self.format]
        if self.precision != "float32" and self.format != "onnx":
            option = "--half" if self.precision == "float16" else "--int8"
            raise UsageError(f"{option}: is for --format onnx, not {self.format}")
        if self.free_size is not None and self.format == "timm":
            raise UsageError("--free-size and --fixed-size: timm's folder holds no graph")
        if ending and self.path.suffix != ending:
            raise UsageError(f"--out {self.path}: should end in {ending} for {self.format}")
        if self.format == "onnx":
            require_onnx()
        taken = [p for p in (self.path, self.sidecar) if p.exists()] if ending else []
        if not ending and self.path.exists():
            taken = [self.path]
        if taken and not self.force:
            raise VitrellisError(
                f"{taken[0]}: exists already. Replace it with --force, or choose another --out"
            )
        if self.path.is_dir() and ending:
            raise VitrellisError(f"{self.path}: is a folder. Give the name of a file to write")
        if not ending and self.path.exists() and not _is_model_folder(self.path):
            raise VitrellisError(
                f"{self.path}: is not a folder of a model, and will not be replaced. Choose "
                "another --out"
            )


def export_model(
    trained: Trained, target: Target, images: RealImages, progress: ProgressCallback | None = None
) -> Agreement:
    """Writes a model, reads it back and compares it with `Trained.predict` on real images.

    The file comes to its place when it has passed, in one step; otherwise nothing is left.

    Args:
        trained: The model, on the CPU.
        target: What to write, and where.
        images: Real images.
        progress: Called as images are compared, with the numbers of those done and of all.

    Raises:
        UsageError: If the target's options do not fit the model.
        VitrellisError: If the exported model differs, or cannot be written.
    """
    target.check()
    if target.format == "timm":
        return _export_folder(trained, target, images, progress)
    free_size = target.free_size
    if free_size is None:
        free_size = obstacle_to_free_size(trained) is None
    description = Description.of(trained, target.precision, free_size=free_size)
    program = export_program(trained, free_size=free_size)
    agreements: list[Agreement] = []

    def write(path: Path) -> None:
        exported: Classifier
        if target.format == "onnx":
            write_onnx(program, path, description, _calibration(trained, target, images))
            exported = OnnxClassifier(path, target.path)
        else:
            write_program(program, path, description)
            exported = ProgramClassifier(path)
        agreements.append(_checked(trained, exported, target, images, progress))
        if free_size:
            _check_another_size(trained, exported, target, images)
        target.sidecar.unlink(missing_ok=True)  # never one that describes another model

    atomic_write(target.path, write)
    write_json(target.sidecar, description.to_json())
    return agreements[0]


def _export_folder(
    trained: Trained, target: Target, images: RealImages, progress: ProgressCallback | None
) -> Agreement:
    """Writes timm's folder beside its place, and moves it there."""
    temporary = target.path.with_name(f".{target.path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_timm(trained, temporary)
        agreement = _checked(trained, TimmFolder(temporary), target, images, progress)
        if target.path.exists():
            shutil.rmtree(target.path)
        temporary.rename(target.path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return agreement


def _checked(
    trained: Trained,
    exported: Classifier,
    target: Target,
    images: RealImages,
    progress: ProgressCallback | None,
) -> Agreement:
    split = images.checked
    agreement = compare(trained, exported, split, progress)
    require_agreement(agreement, target.precision, str(target.path))
    return agreement


def _check_another_size(
    trained: Trained, exported: Classifier, target: Target, images: RealImages
) -> None:
    split = images.checked.images
    some = [split[index] for index in range(min(len(split), 8))]
    difference = compare_at_another_size(trained, exported, some)
    if not difference <= TOLERANCES[target.precision].difference:
        raise VitrellisError(
            f"{target.path}: not written, because at another size of images a probability differs "
            f"by {difference:.2g} from the run's model. Export with --fixed-size"
        )


def _calibration(trained: Trained, target: Target, images: RealImages) -> Sequence[Tensor]:
    """Batches of training images as the graph sees them, if the precision needs them."""
    if target.precision != "int8":
        return ()
    resize: Callable[[Tensor], Tensor] = trained.preprocessing.transform().resize_and_crop
    split = images.calibration.images
    size = min(len(split), _CALIBRATION_BATCH)  # onnxruntime stacks batches, so they are of a size
    pixels = [resize(split[index]) for index in range(len(split) // size * size)]
    return torch.stack(pixels).split(size)


def _is_model_folder(path: Path) -> bool:
    return path.is_dir() and {p.name for p in path.iterdir()} == {
        "config.json",
        "model.safetensors",
    }
