"""Colour jitter, greyscale and blur, as in SimCLR.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
https://arxiv.org/abs/2002.05709, in torchvision's version (`ColorJitter`, `RandomGrayscale`,
`GaussianBlur`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vitrellis.data.augmentation.crops import in_order
from vitrellis.data.augmentation.operations import NOTHING, OPERATIONS, Layers, Policy
from vitrellis.data.augmentation.steps import AugmentationKeys, Step, amount
from vitrellis.data.randomness import uniform
from vitrellis.settings import Fraction, NonNegative, Positive


class ColorJitterKeys(AugmentationKeys):
    """The keys of colour jitter."""

    color_jitter: tuple[
        NonNegative, NonNegative, NonNegative, Annotated[NonNegative, Field(le=0.5)]
    ] = (0.0, 0.0, 0.0, 0.0)
    """Greatest change of brightness, contrast and saturation around 1, and of the hue around 0, in
    circles; SimCLR has `[0.4, 0.4, 0.4, 0.1]`. Grey images have neither saturation nor hue."""
    color_jitter_probability: Fraction = 1.0
    """Probability that the colours of an image vary at all."""

    def step(self) -> Step | None:
        """The jitter, if any of the four varies."""
        if not any(self.color_jitter):
            return None
        return ColorJitter(self.color_jitter, self.color_jitter_probability)

    def words(self) -> list[str]:
        """The probability."""
        return amount("colour jitter", self.color_jitter_probability * any(self.color_jitter))


class GreyscaleKeys(AugmentationKeys):
    """The key of greyscale."""

    grayscale: Fraction = 0.0
    """Probability that an image becomes grey."""

    def step(self) -> Step | None:
        """The greyscale step, if its probability is not 0."""
        return Greyscale(self.grayscale) if self.grayscale > 0 else None

    def words(self) -> list[str]:
        """The probability."""
        return amount("greyscale", self.grayscale)


class BlurKeys(AugmentationKeys):
    """The keys of blur."""

    blur: Fraction = 0.0
    """Probability that an image is blurred, by a Gaussian kernel of about a tenth of a side."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest deviation of that kernel, in pixels of the model's input."""

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> Self:
        in_order("blur_sigma", self.blur_sigma)
        return self

    def step(self) -> Step | None:
        """The blur, if its probability is not 0."""
        return Blur(self.blur, self.blur_sigma) if self.blur > 0 else None

    def words(self) -> list[str]:
        """The probability."""
        return amount("blur", self.blur)


@dataclass(frozen=True)
class ColorJitter(Policy):
    """Brightness, contrast, saturation and hue, in a random order for each sample.

    Attributes:
        amounts: The amounts of the four. Factors are uniform in `[max(0, 1 - amount), 1 + amount]`;
            the hue is moved by up to its amount, 0.5 at most, of the circle of colours to both
            sides.
        probability: Probability that an image is varied at all.
    """

    amounts: tuple[float, float, float, float]
    probability: float = 1.0

    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """Operations and strengths of four layers, whatever the size; see `Policy`."""
        del size
        amounts = torch.tensor(self.amounts, dtype=torch.float64)
        middle = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        least = torch.maximum(middle - amounts, torch.tensor([0.0, 0.0, 0.0, -0.5]))
        shares = uniform(keys, "color-jitter", 4).double()
        strengths = least + shares * (middle + amounts - least)  # (B, 4)
        operations = torch.where(amounts > 0, torch.tensor(_JITTERED), NOTHING)
        is_done = uniform(keys, "color-jitter-whether", 1) < self.probability
        indices = torch.where(is_done, operations, NOTHING)
        order = uniform(keys, "color-jitter-order", 4).argsort(dim=1, stable=True)
        return Layers(indices.gather(1, order), strengths.gather(1, order))


@dataclass(frozen=True)
class Greyscale(Policy):
    """All channels become the image's grey.

    Attributes:
        probability: Probability that an image becomes grey.
    """

    probability: float

    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """Operations and strengths of one layer, whatever the size; see `Policy`."""
        del size
        is_done = uniform(keys, "greyscale", 1) < self.probability  # (B, 1)
        indices = torch.where(is_done, OPERATIONS.index("Color"), NOTHING)
        return Layers(indices, torch.zeros_like(indices, dtype=torch.float64))


@dataclass(frozen=True)
class Blur(Policy):
    """Gaussian blur, see `vitrellis.data.augmentation.blur`.

    Attributes:
        probability: Probability that an image is blurred.
        sigma: Smallest and largest deviation, in pixels.
    """

    probability: float
    sigma: tuple[float, float] = (0.1, 2.0)

    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """Operations and strengths of one layer, whatever the size; see `Policy`."""
        del size
        is_done = uniform(keys, "blur", 1) < self.probability  # (B, 1)
        least, greatest = self.sigma
        sigmas = least + uniform(keys, "blur-sigma", 1).double() * (greatest - least)
        return Layers(torch.where(is_done, OPERATIONS.index("Blur"), NOTHING), sigmas)


_JITTERED = [OPERATIONS.index(name) for name in ("Brightness", "Contrast", "Color", "Hue")]
