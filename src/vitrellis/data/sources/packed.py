"""Datasets that `vitrellis data pack` wrote: one LMDB file, or tar shards with an index."""

from __future__ import annotations

from pathlib import Path

import torch

from vitrellis.data.packing.lmdb_file import LmdbFile, image_key
from vitrellis.data.packing.pack_index import PackIndex, SplitIndex, read_index
from vitrellis.data.packing.tar_shards import TarShards, place_key
from vitrellis.data.source import Source, Split
from vitrellis.data.sources.encoded import EncodedImages
from vitrellis.errors import VitrellisError

_CONTENTS = "a file that `vitrellis data pack FOLDER FILE.lmdb` wrote"


def load_lmdb(root: Path | None, channels: int | None = None) -> Source:
    """All splits of a dataset in one LMDB file.

    Args:
        root: The file.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.

    Raises:
        VitrellisError: If the file is missing or damaged, or others wrote it.
    """
    if root is None:
        raise VitrellisError(f"source 'lmdb' needs data.root: {_CONTENTS}")
    file = root.expanduser()
    if file.is_dir() or not file.exists():
        problem = "is a folder" if file.is_dir() else "no such folder or file"
        raise VitrellisError(f"data.root: {problem}: {file}. It should be {_CONTENTS}")
    container = LmdbFile(file)
    return source_of_index(container, read_index(container.index_bytes(), str(file)), channels)


def source_of_index(
    container: LmdbFile | TarShards, index: PackIndex, channels: int | None
) -> Source:
    """The source that an index describes.

    Args:
        container: The file or the shards.
        index: The index.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.
    """
    digest = index.digest()

    def split(name: str, part: SplitIndex) -> Split:
        keys = (
            [place_key(place) for place in part.places]
            if part.places
            else [image_key(name, number) for number in range(len(part.labels))]
        )
        size = None if part.size is None else (part.size[0], part.size[1])
        images = EncodedImages(
            container, keys, part.names, channels or index.channels, size, digest
        )
        return Split(images, torch.tensor(part.labels, dtype=torch.int64))

    splits = {name: split(name, part) for name, part in index.splits.items()}
    return Source(
        index.source,
        tuple(index.class_names),
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        notes=tuple(index.notes),
    ).checked()


def _is_lmdb(root: Path) -> bool:
    return root.is_file() and root.suffix in (".lmdb", ".mdb")


LAYOUTS = {"lmdb": load_lmdb}
RECOGNIZED_BY = {"lmdb": _is_lmdb}
