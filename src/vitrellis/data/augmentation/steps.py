"""The parts of an augmentation: its recipe keys, and the step that they ask for.

A new augmentation is one file with a class of keys and a class of steps, and one more base of
`View` (`view.py`). A step must depend on the sample's key alone, so its random numbers come
from `vitrellis.data.randomness`, from a stream with a name of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from vitrellis.settings import Section


class PixelStep(ABC):
    """Changes the grey levels of cropped images, before they are normalised."""

    @abstractmethod
    def apply(self, images: Tensor, keys: Tensor, fill: Tensor) -> None:
        """Changes a batch in place.

        Args:
            images: `(B, C, H, W)` uint8.
            keys: `(B,)` int64 keys of the samples, on the CPU.
            fill: `(C,)` float32, the mean colour in grey levels.
        """

    @abstractmethod
    def matrices(self, keys: Tensor, size: tuple[int, int]) -> Tensor | None:
        """The movement of the pixels, as `warp` takes it; None for a step that moves nothing.

        Args:
            keys: `(B,)` int64 keys of the samples, on the CPU.
            size: `(H, W)` of the images in pixels.

        Returns:
            `(B, 2, 3)` float64.
        """


class NormalizedStep(ABC):
    """Changes images after they were normalised."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Changes a batch in place, and returns it.

        Args:
            images: `(B, C, H, W)` float32, normalised.
            keys: `(B,)` int64 keys of the samples, on the CPU.
        """


Step = PixelStep | NormalizedStep
"""One augmentation at work, before or after normalisation."""


class AugmentationKeys(Section, ABC):
    """The recipe keys of one augmentation. With the defaults, it is off."""

    @abstractmethod
    def step(self) -> Step | None:
        """The step that these keys ask for; None if the augmentation is off."""

    @abstractmethod
    def words(self) -> list[str]:
        """The augmentation in a few words, for the summary of a run; empty if it is off."""


def amount(name: str, value: float) -> list[str]:
    """The words for an augmentation of which one number says enough: none for 0."""
    return [f"{name} {value:g}"] if value else []
