"""Files inside a `.tar.gz`, read into memory: nothing is unpacked onto the disk."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from vitrellis.errors import VitrellisError

GREATEST_SIZE = 1 << 30
"""Greatest size in bytes of a file that is read."""


def read_members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of some files, by their names with that of the archive, in the order of `names`.

    Args:
        archive: A tar file, compressed or not.
        names: Paths in the archive.

    Raises:
        VitrellisError: If the archive cannot be read, or does not hold all of them.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                name = member.name.removeprefix("./")
                if name not in names or not member.isreg():
                    continue
                if member.size > GREATEST_SIZE:
                    raise VitrellisError(f"{archive}: {name} is too large ({member.size:,} bytes)")
                file = packed.extractfile(member)
                assert file is not None, "a regular file"
                contents[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise VitrellisError(
            f"{archive}: is damaged or cut off ({error}); get the file again"
        ) from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise VitrellisError(f"{archive}: holds no {missing[0]}; is it the original archive?")
    return {f"{archive}: {name}": contents[name] for name in names}
