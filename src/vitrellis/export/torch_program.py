"""A `torch.export` file of a trained model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitrellis.export.description import Description

DESCRIPTION_FILE = "vitrellis.json"
"""The name of the description among the extra files of a `torch.export` file."""


def write_program(
    program: torch.export.ExportedProgram, path: Path, description: Description
) -> None:
    """Writes a `torch.export` file with the description among its extra files.

    Args:
        program: From `export_program`.
        path: The file.
        description: What is written beside the graph.
    """
    text = json.dumps(description.to_json(), indent=2, ensure_ascii=False)
    with path.open("wb") as file:  # by name, torch refuses endings other than .pt2
        torch.export.save(program, file, extra_files={DESCRIPTION_FILE: text})


class ProgramClassifier:
    """A `torch.export` file that `write_program` wrote, as a model that predicts.

    Args:
        path: The file.

    Attributes:
        description: What the file says of itself.
    """

    def __init__(self, path: Path) -> None:
        extra_files = {DESCRIPTION_FILE: ""}
        with path.open("rb") as file:
            self._module = torch.export.load(file, extra_files=extra_files).module()
        self.description = Description.from_json(json.loads(extra_files[DESCRIPTION_FILE]), path)

    @torch.no_grad()
    def run(self, pixels: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)`, resized and cropped, to probabilities float32 `(B, K)`."""
        _, probabilities = self._module(pixels)
        return probabilities

    def predict(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 images `(C, H, W)` of any sizes to probabilities float32 `(N, K)`."""
        resize = self.description.preprocessing.transform().resize_and_crop
        return self.run(torch.stack([resize(image) for image in images]))
