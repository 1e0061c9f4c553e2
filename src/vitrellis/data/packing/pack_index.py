"""The index of a packed dataset: classes, and the label, name, digest and place of every image."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

from vitrellis.errors import VitrellisError

FORMAT_VERSION = 1


@dataclass
class SplitIndex:
    """The images of one split, in their order.

    Attributes:
        labels: The class index of each image.
        names: The name of each image, as the source that was packed gave it.
        digests: The SHA-256 of each encoded image, hexadecimal.
        size: `[H, W]` in pixels if all have the same size, else None.
        places: In tar shards, the shard's number, the offset and the length of each image.
    """

    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    size: list[int] | None = None
    places: list[list[int]] = field(default_factory=list)


@dataclass
class PackIndex:
    """The index of a packed dataset.

    Attributes:
        source: The name of the source that was packed.
        class_names: The classes, in the order of the class indices.
        channels: The number of channels of every image.
        splits: The splits by name.
        notes: What the source said about itself.
        shards: In tar shards, the name of each file.
        version: The version of this format.
    """

    source: str
    class_names: list[str]
    channels: int
    splits: dict[str, SplitIndex]
    notes: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """Compressed JSON, the same bytes for the same index."""
        return gzip.compress(json.dumps(asdict(self)).encode(), mtime=0)

    def digest(self) -> str:
        """A digest of classes, labels and images, wherever they lie."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.channels]).encode())
        for name, split in self.splits.items():
            digest.update(json.dumps([name, split.labels, split.digests]).encode())
        return digest.hexdigest()


def read_index(content: bytes, label: str) -> PackIndex:
    """The index that `PackIndex.to_bytes` wrote.

    Args:
        content: The bytes.
        label: Where they come from, for messages.

    Raises:
        VitrellisError: If they are damaged, or of a newer version.
    """
    try:
        values: dict[str, Any] = json.loads(gzip.decompress(content))
        version = values["version"]
        if version != FORMAT_VERSION:
            raise VitrellisError(
                f"{label}: has version {version} of the packed format, and this Vitrellis reads "
                f"version {FORMAT_VERSION}; use the version that wrote it, or pack the images again"
            )
        splits = {name: SplitIndex(**split) for name, split in values.pop("splits").items()}
        index = PackIndex(**values, splits=splits)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise VitrellisError(f"{label}: its index is damaged ({error}); pack it again") from None
    for name, split in index.splits.items():
        if not len(split.labels) == len(split.names) == len(split.digests):
            raise VitrellisError(
                f"{label}: its index of the {name} split is damaged; pack it again"
            )
    return index
