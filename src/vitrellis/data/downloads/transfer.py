"""One file fetched over HTTP: continued where it stopped, and moved to its place when it is right.

torchvision's `download_url` writes into the final file, so that an interrupted download leaves half
of it there, and begins anew. Here the bytes go into `NAME.part` beside it.
"""

from __future__ import annotations

import http
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from filelock import FileLock, Timeout
from torchvision.datasets.utils import USER_AGENT, check_integrity

from vitrellis.errors import VitrellisError

ByteProgress = Callable[[int, int | None], None]
"""Called with the number of bytes that are there, and of all bytes if that is known."""

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30  # seconds without an answer
_ATTEMPTS = 5  # connections that break one after the other, each after some bytes


class RemoteFile(NamedTuple):
    """A file that others serve."""

    name: str
    """Its path below the folder into which a dataset is downloaded."""
    urls: Sequence[str]
    """The addresses that serve it, tried in this order."""
    md5: str
    """Its MD5 checksum, hexadecimal."""


class _UnreachableError(Exception):
    """There was no answer, or a refusal."""


class _ConnectionLostError(Exception):
    """The connection broke before the last byte."""


def is_there(file: RemoteFile, folder: Path) -> bool:
    """Whether the file is in the folder and has the right checksum."""
    return bool(check_integrity(folder / file.name, file.md5))


def fetch(
    file: RemoteFile, folder: Path, progress: ByteProgress, *, missing: Sequence[RemoteFile] = ()
) -> None:
    """Downloads a file, or the rest of it.

    Args:
        file: The file.
        folder: The folder into which it goes; it is made if it is missing.
        progress: Called as bytes arrive.
        missing: All files that are to be downloaded; a message says how to get them by hand.

    Raises:
        VitrellisError: If no address can be reached, one answers with an error, the connection
            breaks, the content has another checksum, or the disk is full. A part that may be
            continued stays as `NAME.part`; a wrong one is removed.
    """
    place = folder / file.name
    part = place.with_name(place.name + ".part")
    by_hand = _by_hand(missing or (file,), folder)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part), part.open("ab") as output:
            resumed = output.tell() > 0
            _from_any(file, output, progress, by_hand)
            output.flush()
            if not check_integrity(part, file.md5) and resumed:
                _empty(output)  # what was there may have been of another file
                _from_any(file, output, progress, by_hand)
                output.flush()
        if not check_integrity(part, file.md5):
            part.unlink()
            raise VitrellisError(
                f"{file.urls[0]}: what came has another checksum than the published file "
                f"({file.md5}), and was removed. A proxy may have answered in its place. {by_hand}"
            )
        part.replace(place)
    except OSError as error:
        raise VitrellisError(
            f"{part}: cannot be written: {error.strerror or error}. The same command continues"
        ) from None


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Keeps other processes from the file; deletes it, and its folder, if they stay empty."""
    lock = FileLock(part.with_name(f".{part.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise VitrellisError(f"{part}: another process is downloading it; wait for it") from None
    try:
        yield
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            part.parent.rmdir()


def _from_any(file: RemoteFile, output: IO[bytes], progress: ByteProgress, by_hand: str) -> None:
    """Appends what is missing, from the first address that serves it."""
    reasons = []
    for url in file.urls:
        for attempt in range(1, _ATTEMPTS + 1):
            before = output.tell()
            try:
                _append(url, output, progress)
                return
            except _UnreachableError as error:
                reasons.append(f"{url}: {error}")
                break
            except _ConnectionLostError as error:
                if attempt == _ATTEMPTS or output.tell() == before:
                    reasons.append(f"{url}: the connection broke ({error})")
                    break
    output.flush()
    if output.tell() == 0:
        raise VitrellisError(f"{'; '.join(reasons)}. {by_hand}")
    raise VitrellisError(
        f"{'; '.join(reasons)}. {output.tell():,} bytes are kept in {output.name}, and the same "
        f"command continues after them. {by_hand}"
    )


def _append(url: str, output: IO[bytes], progress: ByteProgress) -> None:
    """Appends what one address sends, beginning after the bytes that are there."""
    have = output.tell()
    answer = _asked(url, have)
    if answer is None:
        return
    with answer:
        if have and _first_byte(answer) != have:
            _empty(output)  # the server sends everything again
            have = 0
        total = None if answer.length is None else have + answer.length
        progress(have, total)
        while chunk := _received(answer):
            output.write(chunk)
            have += len(chunk)
            progress(have, total)
    if total is not None and have < total:
        raise _ConnectionLostError(f"after {have:,} of {total:,} bytes")


def _asked(url: str, have: int) -> http.client.HTTPResponse | None:
    """The server's answer; None if it has nothing after the first `have` bytes."""
    headers = {"User-Agent": USER_AGENT}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # it is complete, or of another file: the checksum tells
        raise _UnreachableError(f"the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, OSError):
            reason = reason.strerror or reason
        raise _UnreachableError(f"could not be reached ({reason})") from None
    return answer


def _received(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionLostError(str(error) or type(error).__name__) from None


def _empty(output: IO[bytes]) -> None:
    output.truncate(0)
    output.seek(0)


def _first_byte(answer: http.client.HTTPResponse) -> int | None:
    """The number of the first byte that a partial answer holds; None if it is not partial."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return None
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _by_hand(missing: Sequence[RemoteFile], folder: Path) -> str:
    lines = []
    for file in missing:
        place = folder / file.name
        wrong = f" (the file there now has another checksum than {file.md5})"
        lines.append(f"\n  {file.urls[0]}  ->  {place}{wrong if place.exists() else ''}")
    return (
        "Without a network, fetch elsewhere what is missing, put it here, and type the same "
        f"command again, which checks it:{''.join(lines)}"
    )
