"""Images in tar shards, as WebDataset names their members, read in any order.

https://github.com/webdataset/webdataset: the members of a sample have the same name and differ in
their endings, such as `000123.jpg` and `000123.cls`. Shards lie in a folder, or behind any address
that fsspec knows: `https://`, `s3://`, `gs://`. Only members' places are used, nothing is unpacked.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitrellis.data.packing.storage import filesystem_of, storage_errors
from vitrellis.errors import VitrellisError

INDEX_FILE = "index.json.gz"
"""The index that `vitrellis data pack` writes beside its shards, last of all."""


class MemberPlace(NamedTuple):
    """Where a member lies: the number of its shard, and its bytes there."""

    shard: int
    offset: int
    length: int


class TarMember(NamedTuple):
    """A regular file in a shard."""

    name: str
    place: MemberPlace


class TarShards:
    """Shards that are read from any process and thread.

    Args:
        base: The folder, or an address that fsspec knows.
        shards: The names of the shards.
    """

    def __init__(self, base: str, shards: Sequence[str]) -> None:
        self.base = base.rstrip("/")
        self.shards = tuple(shards)
        self._process = -1
        self._filesystem: Any = None

    def read(self, key: str) -> bytes:
        """The bytes at a place, which is written as `shard:offset:length`.

        Raises:
            VitrellisError: If the shard is missing, or shorter than that.
        """
        shard, offset, length = (int(part) for part in key.split(":"))
        content = self._bytes(shard, offset, length)
        if len(content) != length:
            raise VitrellisError(
                f"{self.where(shard)}: ends before byte {offset + length:,}; it was cut off"
            )
        return content

    def files(self) -> list[Path] | None:
        """The shards; None if they are on another computer."""
        if "://" in self.base:
            return None
        return [Path(self.where(shard)) for shard in range(len(self.shards))]

    def where(self, shard: int) -> str:
        """The path or address of a shard."""
        return f"{self.base}/{self.shards[shard]}"

    def members(self, shard: int) -> Iterator[TarMember]:
        """The regular files of a shard, in their order.

        Raises:
            VitrellisError: If it is missing or damaged.
        """
        damage: tuple[type[Exception], ...] = (tarfile.TarError, EOFError, *storage_errors())
        try:
            with (
                self._file(shard) as file,
                tarfile.open(fileobj=file, mode="r:") as archive,
            ):
                for member in archive:
                    if member.isreg():
                        place = MemberPlace(shard, member.offset_data, member.size)
                        yield TarMember(member.name, place)
        except FileNotFoundError:
            raise VitrellisError(f"{self.where(shard)}: no such file") from None
        except damage as error:
            raise VitrellisError(
                f"{self.where(shard)}: is no tar file, or damaged or cut off ({error}). "
                "Compressed shards cannot be read in any order; unpack them to .tar"
            ) from None

    def _file(self, shard: int) -> Any:
        filesystem, path = filesystem_of(self.where(shard))
        return filesystem.open(path, "rb")

    def _bytes(self, shard: int, offset: int, length: int) -> bytes:
        if self._process != os.getpid():
            self._process, self._filesystem = os.getpid(), None
        where = self.where(shard)
        try:
            if "://" not in self.base:
                with Path(where).open("rb") as file:
                    file.seek(offset)
                    return file.read(length)
            if self._filesystem is None:
                self._filesystem, _ = filesystem_of(self.base)
            content: bytes = self._filesystem.cat_file(where, start=offset, end=offset + length)
            return content
        except FileNotFoundError:
            raise VitrellisError(f"{where}: no such file") from None
        except storage_errors() as error:
            raise VitrellisError(f"{where}: cannot be read ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": -1, "_filesystem": None}


def place_key(place: Sequence[int]) -> str:
    """The key of a place for `TarShards.read`."""
    return ":".join(map(str, place))
