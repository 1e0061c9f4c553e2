"""Images that lie in a container as encoded files, such as JPEG, and are decoded when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from vitrellis.data.channels import chosen_channels
from vitrellis.data.sources.decoding import decode_header, decode_image
from vitrellis.errors import VitrellisError

PROBED_IMAGES = 100_000
"""The greatest number of images whose headers are read when a container is opened."""


class Container(Protocol):
    """A store of encoded files that can be read in any order, from any process."""

    def read(self, key: str) -> bytes:
        """The bytes of one file.

        Raises:
            VitrellisError: If there is none of this key, or the container cannot be read.
        """
        ...

    def files(self) -> Sequence[Path] | None:
        """The files that hold everything; None if they are on another computer."""
        ...


class ListedContainer(Container, Protocol):
    """A container that knows the keys of its images."""

    def keys(self) -> list[str]:
        """The key of each image, in their order."""
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
        bad: The reason why an image cannot be read, by its number, where that is known already.
    """

    container: Container
    keys: Sequence[str]
    names: Sequence[str]
    channels: int
    size: tuple[int, int] | None
    digest: str
    bad: Mapping[int, str] = field(default_factory=dict)

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


def encoded_splits(
    containers: Mapping[str, ListedContainer],
    names: Mapping[str, Sequence[str]],
    channels: int | None,
    *,
    digest: str,
) -> dict[str, EncodedImages]:
    """The images of all splits, whose headers say how many channels and which size they have.

    Of more than `PROBED_IMAGES`, as many are looked at, evenly spread, and the size stays unknown.

    Args:
        containers: The container of each split.
        names: The name of each image of each split.
        channels: 1 or 3 to make all images grey or colour; None chooses grey if all are.
        digest: A digest of the containers' content.

    Raises:
        UsageError: If no image can have so many channels.
        VitrellisError: If no image can be read, or numbers of channels are mixed otherwise than
            grey and colour.
    """
    keys = {split: container.keys() for split, container in containers.items()}
    total = sum(map(len, keys.values()))
    step = -(-total // PROBED_IMAGES) or 1
    bad: dict[str, dict[int, str]] = {split: {} for split in containers}
    sizes: dict[str, set[tuple[int, int]]] = {split: set() for split in containers}
    examples: dict[int, str] = {}
    for split, container in containers.items():
        for index in range(0, len(keys[split]), step):
            name = names[split][index]
            try:
                header = decode_header(container.read(keys[split][index]), name)
            except VitrellisError as error:
                bad[split][index] = str(error)
                continue
            sizes[split].add(header.size)
            examples.setdefault(header.channels, name)
    if not examples:
        reasons = [reason for of_split in bad.values() for reason in of_split.values()]
        raise VitrellisError(f"no image can be read: {reasons[0] if reasons else 'there is none'}")
    own = chosen_channels(examples, channels)
    return {
        split: EncodedImages(
            container,
            keys[split],
            names[split],
            own,
            next(iter(sizes[split])) if step == 1 and len(sizes[split]) == 1 else None,
            digest,
            bad[split],
        )
        for split, container in containers.items()
    }
