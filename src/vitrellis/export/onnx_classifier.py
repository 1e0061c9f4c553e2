"""An ONNX file that `vitrellis export` wrote, as a model that predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrellis.errors import VitrellisError
from vitrellis.export.description import Description
from vitrellis.export.graph import IMAGES, OUTPUTS


class OnnxClassifier:
    """An exported model, run by onnxruntime on the CPU.

    Args:
        path: The file.
        named: How errors call the file, if not by its path.

    Attributes:
        description: What the file says of itself.

    Raises:
        VitrellisError: If onnxruntime is not installed, or the file is missing, damaged or from
            another program.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        named = path if named is None else named
        self._named = named
        try:
            import onnxruntime
        except ImportError as error:
            raise VitrellisError(
                f"{named}: onnxruntime is not installed: pip install 'vitrellis[onnx]'"
            ) from error
        if not path.is_file():
            raise VitrellisError(f"{named}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; half precision is warned about for each node
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except _refusals() as error:
            reason = str(error).splitlines()[0]
            raise VitrellisError(f"{named}: cannot be read as an ONNX file ({reason})") from error
        self.description = Description.from_json(_metadata(self._session), named)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in the order of the outputs."""
        return self.description.class_names

    def run(self, pixels: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)`, resized and cropped, to probabilities float32 `(B, K)`."""
        (probabilities,) = self._session.run([OUTPUTS[1]], {IMAGES: pixels.numpy()})
        return torch.from_numpy(probabilities)

    def predict(self, images: Sequence[Tensor], names: Sequence[str] | None = None) -> Tensor:
        """The class probabilities.

        Args:
            images: uint8 `(C, H, W)` of any sizes.
            names: The names of the images, for messages; by default their numbers.

        Returns:
            Float32 `(N, K)`.

        Raises:
            VitrellisError: If a probability is not finite, naming the image.
        """
        resize = self.description.preprocessing.transform().resize_and_crop
        return self.predict_resized(torch.stack([resize(image) for image in images]), names)

    def predict_resized(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """The class probabilities of images that are resized and cropped already.

        Args:
            images: uint8 `(N, C, h, w)`.
            names: The names of the images, for messages; by default their numbers.

        Returns:
            Float32 `(N, K)`.

        Raises:
            VitrellisError: If a probability is not finite, naming the image.
        """
        probabilities = self.run(images)
        for number, row in enumerate(probabilities):
            if not row.isfinite().all():
                name = f"image {number}" if names is None else names[number]
                raise VitrellisError(
                    f"{self._named}: a probability of {name} is not finite. Export the run again "
                    "without --half"
                )
        return probabilities


def _refusals() -> tuple[type[Exception], ...]:
    """The errors by which onnxruntime refuses a file."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
    )


def _metadata(session: Any) -> dict[str, Any]:
    """The metadata of the file, of which all but plain words is JSON."""
    texts: dict[str, str] = session.get_modelmeta().custom_metadata_map
    values: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values
