"""Images that lie in a container as encoded files, such as JPEG, and are decoded when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vitrellis.data.sources.decoding import decode_image
from vitrellis.errors import VitrellisError


class Container(Protocol):
    """A store of encoded files that can be read in any order, from any process."""

    def read(self, key: str) -> bytes:
        """The bytes of one file.

        Raises:
            VitrellisError: If there is none of this key, or the container cannot be read.
        """
        ...


@dataclass(frozen=True)
class EncodedImages:
    """Images in a container.

    Attributes:
        container: The container.
        keys: The key of each image.
        names: The name by which a user finds each image.
        channels: Channels of every image, converted if need be.
        size: `(H, W)` if all have the same size, else None.
        digest: A digest of the container's content.
    """

    container: Container
    keys: Sequence[str]
    names: Sequence[str]
    channels: int
    size: tuple[int, int] | None
    digest: str

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Tensor:
        image = decode_image(self.encoded(index), self.channels, self.name(index))
        if self.size is not None and tuple(image.shape[1:]) != self.size:
            raise VitrellisError(
                f"{self.name(index)}: is {tuple(image.shape[1:])} pixels, and should be "
                f"{self.size}, as the container says"
            )
        return image

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file."""
        return self.container.read(self.keys[index])

    def name(self, index: int) -> str:
        """The name of the image."""
        return self.names[index]

    def fingerprint(self) -> str:
        """A digest of the container and of the keys."""
        digest = hashlib.sha256(self.digest.encode())
        digest.update("\n".join(self.keys).encode())
        return digest.hexdigest()
