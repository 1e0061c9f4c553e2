"""Facts that travel with an exported model: its classes, its input and its preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vitrellis import __version__
from vitrellis.errors import VitrellisError
from vitrellis.export.graph import IMAGES, OUTPUTS
from vitrellis.runs.exported import Preprocessing, Trained
from vitrellis.runs.results import parse

NumberFormat = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Description:
    """What a program must know to use an exported model.

    Attributes:
        architecture: The name of the architecture.
        class_names: The class names, in the order of the outputs.
        preprocessing: The preprocessing of images.
        precision: The numbers that the graph computes with.
        free_size: Whether the graph takes images of any size.
    """

    architecture: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    precision: NumberFormat = "float32"
    free_size: bool = False

    @classmethod
    def of(cls, trained: Trained, precision: NumberFormat, *, free_size: bool) -> Description:
        """The description of a trained model."""
        return cls(
            trained.architecture, trained.class_names, trained.preprocessing, precision, free_size
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Description:
        """The description that `to_json` wrote.

        Args:
            values: What was written.
            path: The file that it was read from, for errors.

        Raises:
            VitrellisError: If it does not describe a model.
        """
        names = ("architecture", "class_names", "preprocessing", "precision", "free_size")
        if "class_names" not in values or "preprocessing" not in values:
            raise VitrellisError(
                f"{path}: was not written by `vitrellis export`: it does not say its classes and "
                "its preprocessing"
            )
        return parse(cls, {name: values[name] for name in names if name in values}, path)

    def to_json(self) -> dict[str, Any]:
        """The description for other programs, which `docs/export.md` explains."""
        settings = self.preprocessing
        height, width = ("height", "width") if self.free_size else settings.img_size
        steps = asdict(settings) | {
            "resize_size": [math.floor(side / settings.crop_pct) for side in settings.img_size],
            "resize_library": "Pillow",
            "normalization": "in the graph: (images / 255 - mean) / std",
        }
        return {
            "architecture": self.architecture,
            "class_names": list(self.class_names),
            "inputs": {
                IMAGES: {
                    "dtype": "uint8",
                    "shape": ["batch", settings.channels, height, width],
                    "channels": {1: "grey", 3: "RGB"}.get(settings.channels, "as in training"),
                }
            },
            "outputs": {
                name: {"dtype": "float32", "shape": ["batch", len(self.class_names)]}
                for name in OUTPUTS
            },
            "preprocessing": steps,
            "precision": self.precision,
            "free_size": self.free_size,
            "vitrellis_version": __version__,
        }
