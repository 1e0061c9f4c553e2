"""Images from Python as grey or colour ones; loaders of files do this while they read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from torch import Tensor

from vitrellis.data.channels import to_channels
from vitrellis.data.source import Images, Source, Split, TensorImages


def with_channels(source: Source, channels: int | None) -> Source:
    """The same source with images of another number of channels.

    Args:
        source: The source.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.

    Raises:
        VitrellisError: If it is neither from 1 to 3 nor from 3 to 1.
    """
    if channels is None or channels == source.channels:
        return source

    def converted(split: Split) -> Split:
        return Split(_converted(split.images, channels, source.name), split.labels)

    return replace(
        source,
        train=converted(source.train),
        val=None if source.val is None else converted(source.val),
        test=None if source.test is None else converted(source.test),
    )


def _converted(images: Images, channels: int, name: str) -> Images:
    if isinstance(images, TensorImages):
        return TensorImages(to_channels(images.tensor, channels, f"input.channels: {name}"))
    to_channels(images[0], channels, f"input.channels: {images.name(0)}")
    return _Converted(images, channels)


@dataclass(frozen=True)
class _Converted:
    """Images that are converted when they are read."""

    base: Images
    channels: int

    @property
    def size(self) -> tuple[int, int] | None:
        return self.base.size

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Tensor:
        return to_channels(self.base[index], self.channels, self.base.name(index))

    def name(self, index: int) -> str:
        return self.base.name(index)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(b"%d channels" % self.channels)
        return digest.hexdigest()
