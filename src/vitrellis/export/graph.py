"""A trained model as a graph of tensor operations, from uint8 images to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrellis.data.augmentation.transforms import scale_and_shift
from vitrellis.errors import UsageError
from vitrellis.models import takes_img_size
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.runs.exported import Trained

IMAGES = "images"
"""The name of the graph's input."""
OUTPUTS = ("logits", "probabilities")
"""The names of the graph's outputs."""
_EXAMPLE_BATCH = 2  # a batch of one would be taken for a constant
_LEAST_SIDE = 64  # of an example of free size: on smaller ones, maps of one pixel become constants


class ImageClassifier(nn.Module):
    """A model with its normalisation before it and a softmax behind it.

    Args:
        model: The model, in eval mode. One with two heads returns their mean.
        mean: The mean of each channel, of images in [0, 1].
        std: The standard deviation of each channel, of images in [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `(B, C, H, W)` to logits and probabilities, each float32 `(B, K)`."""
        logits = self.model(images.float() * self.scale + self.shift).float()
        return logits, logits.softmax(dim=-1)


def obstacle_to_free_size(trained: Trained) -> str | None:
    """The reason why a graph of a model is for images of one size; None if there is none.

    CNNs, CvT, DHVT and PVT v2 take any size once they are built; the others have position
    embeddings for one size. How many tokens are left out depends on the size, too.

    Args:
        trained: The model.
    """
    if takes_img_size(trained.architecture.split(".")[0]):
        return f"{trained.architecture} has position embeddings for one size of images"
    if isinstance(trained.model, TokenReduction):
        return "the model leaves out a number of tokens that depends on the size of images"
    return None


def export_program(trained: Trained, *, free_size: bool) -> torch.export.ExportedProgram:
    """The graph of a trained model, for any number of images.

    Args:
        trained: The model, on the CPU.
        free_size: Whether height and width are free, too.

    Raises:
        UsageError: If the model's size cannot be free.
    """
    settings = trained.preprocessing
    height, width = settings.img_size
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if free_size:
        obstacle = obstacle_to_free_size(trained)
        if obstacle is not None:
            raise UsageError(
                f"--free-size: {obstacle}, and this graph is for {height}x{width}; leave it out"
            )
        # never square, so that no side is taken for the other
        height, width = max(height, _LEAST_SIDE), max(width, _LEAST_SIDE) + 32
        sizes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.zeros(_EXAMPLE_BATCH, settings.channels, height, width, dtype=torch.uint8)
    classifier = ImageClassifier(trained.model, settings.mean, settings.std).eval()
    with torch.no_grad():
        return torch.export.export(classifier, (example,), dynamic_shapes=(sizes,))
