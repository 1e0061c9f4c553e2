"""The datasets that `vitrellis data download` knows, as torchvision's downloaders declare them.

Addresses, file names and MD5 checksums are read from torchvision's classes, and the files go where
these would put them below a common folder; so torchvision finds them as well. Flowers-102 is
unpacked, because its photographs are read one by one; the other archives are read as they are.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST, Flowers102

from vitrellis.data.downloads.transfer import ByteProgress, RemoteFile, fetch, is_there
from vitrellis.errors import VitrellisError, unknown_name

Downloading = Callable[[str], AbstractContextManager[ByteProgress]]
"""Opens a progress bar with a title."""


@dataclass(frozen=True)
class PublishedArchive:
    """A dataset that can be downloaded.

    Attributes:
        files: The files that make it up.
        unpacked: For a tar file among them, the folder beside it into which it unpacks: the file is
            not needed once the folder is there.
        command: The command that trains on it, with `{root}` for the folder.
    """

    files: tuple[RemoteFile, ...]
    unpacked: Mapping[str, str]
    command: str


@dataclass(frozen=True)
class Downloaded:
    """What a download did.

    Attributes:
        fetched: The files that were downloaded.
        present: The files and folders that were there already.
        command: The command that trains on the dataset.
    """

    fetched: tuple[Path, ...]
    present: tuple[Path, ...]
    command: str


def download(name: str, folder: Path, downloading: Downloading) -> Downloaded:
    """Downloads what is missing of a dataset, checks it, and unpacks it if need be.

    Args:
        name: A key of `published_archives()`.
        folder: The folder for it; its `data.root`.
        downloading: Opens a progress bar.

    Raises:
        UsageError: If no such dataset can be downloaded.
        VitrellisError: If a file cannot be fetched, has another checksum, or cannot be written.
    """
    archives = published_archives()
    if name not in archives:
        raise unknown_name("dataset for download", name, archives)
    archive = archives[name]
    fetched: list[Path] = []
    present: list[Path] = []
    for file in archive.files:
        place = folder / file.name
        goal = _goal(archive, file, folder)
        if goal.is_dir():
            present.append(goal)
            continue
        if is_there(file, folder):
            present.append(place)
        else:
            with downloading(place.name) as progress:
                fetch(file, folder, progress, missing=_missing(archive, folder))
            fetched.append(place)
        if goal != place:
            with downloading(f"unpacking {place.name}") as progress:
                _unpack(place, goal, progress)
    return Downloaded(tuple(fetched), tuple(present), archive.command.format(root=folder))


def _missing(archive: PublishedArchive, folder: Path) -> list[RemoteFile]:
    """The files that are still to be downloaded."""
    return [
        file
        for file in archive.files
        if not is_there(file, folder) and not _goal(archive, file, folder).is_dir()
    ]


def _goal(archive: PublishedArchive, file: RemoteFile, folder: Path) -> Path:
    """What a file becomes: the folder that is in it, or itself."""
    place = folder / file.name
    return place.parent / archive.unpacked.get(file.name, place.name)


def _unpack(archive: Path, goal: Path, progress: ByteProgress) -> None:
    """Unpacks the folder `goal` of a tar file whole or not at all, and removes the file.

    Members that lead out of the folder, and links out of it, are refused (PEP 706).
    """
    partial = goal.with_name(f".{goal.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was interrupted
        size = archive.stat().st_size
        with archive.open("rb") as file, tarfile.open(fileobj=file) as members:
            for member in members:
                members.extract(member, partial, filter="data")
                progress(file.tell(), size)
        if not (partial / goal.name).is_dir():
            raise VitrellisError(f"{archive}: holds no folder {goal.name}; it is not the original")
        (partial / goal.name).rename(goal)
        shutil.rmtree(partial)
        archive.unlink()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise VitrellisError(f"{archive}: cannot be unpacked ({error}); remove it") from None
    except OSError as error:
        raise VitrellisError(
            f"{partial}: cannot be written: {error.strerror or error}. The same command continues"
        ) from None


def _cifar(kind: type[CIFAR10], command: str) -> PublishedArchive:
    return PublishedArchive((RemoteFile(kind.filename, (kind.url,), kind.tgz_md5),), {}, command)


def _flowers() -> PublishedArchive:
    prefix = Flowers102._download_url_prefix
    files = tuple(
        RemoteFile(f"flowers-102/{name}", (prefix + name,), md5)
        for name, md5 in Flowers102._file_dict.values()
    )
    images = f"flowers-102/{Flowers102._file_dict['image'][0]}"
    command = "vitrellis train flowers102-deit-ti-lg data.root={root}"
    return PublishedArchive(files, {images: "jpg"}, command)


def _fashion() -> PublishedArchive:
    files = tuple(
        RemoteFile(
            f"FashionMNIST/raw/{name}", tuple(mirror + name for mirror in FashionMNIST.mirrors), md5
        )
        for name, md5 in FashionMNIST.resources
    )
    command = "vitrellis train demo-lg data.root={root} data.train_size=null"
    return PublishedArchive(files, {}, command)


def published_archives() -> dict[str, PublishedArchive]:
    """The datasets by the names of their sources."""
    return {
        "cifar10": _cifar(
            CIFAR10, "vitrellis train cifar100-deit-ti-lg data.source=cifar10 data.root={root}"
        ),
        "cifar100": _cifar(CIFAR100, "vitrellis train cifar100-deit-ti-lg data.root={root}"),
        "flowers102": _flowers(),
        "fashion-mnist": _fashion(),
    }
