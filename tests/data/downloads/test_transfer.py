"""Files fetched from a server that breaks off, sends something else, or is not there."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.downloads.faulty_server import FaultyServer, serving
from vitrellis.data.downloads.transfer import RemoteFile, fetch, is_there
from vitrellis.errors import VitrellisError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving({"/a.bin": CONTENT}) as state:
        yield state


def remote(server: FaultyServer, *addresses: str) -> RemoteFile:
    return RemoteFile("sub/a.bin", addresses or (f"{server.address}/a.bin",), MD5)


def silent(done: int, total: int | None) -> None:
    """No progress is shown."""


def test_a_file_is_fetched_and_checked(server: FaultyServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(remote(server), tmp_path, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.bin"]
    assert is_there(remote(server), tmp_path)
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_connection_that_breaks_is_taken_up_again(server: FaultyServer, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000]
    fetch(remote(server), tmp_path, silent)
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_download_continues_with_the_next_call(
    server: FaultyServer, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server), tmp_path, interrupt)
    assert not (tmp_path / "sub/a.bin").exists()
    have = (tmp_path / "sub/a.bin.part").stat().st_size
    assert 0 < have < len(CONTENT)
    fetch(remote(server), tmp_path, silent)
    assert server.requests[1:] == [("/a.bin", f"bytes={have}-")]
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT


def test_a_connection_that_breaks_for_good_leaves_the_part(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.breaks = [1000, 0, 0]
    with pytest.raises(
        VitrellisError, match=r"connection broke .*1,000 bytes are kept in .*\.part"
    ):
        fetch(remote(server), tmp_path, silent)
    assert (tmp_path / "sub/a.bin.part").read_bytes() == CONTENT[:1000]
    server.breaks = []
    fetch(remote(server), tmp_path, silent)
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT


def test_a_server_that_sends_everything_again(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.bin.part").write_bytes(CONTENT[:5000])
    server.knows_ranges = False
    fetch(remote(server), tmp_path, silent)
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"of another file", CONTENT, CONTENT + b"and more"])
def test_a_part_that_is_complete_or_wrong(
    server: FaultyServer, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.bin.part").write_bytes(part)
    fetch(remote(server), tmp_path, silent)
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT
    assert len(server.requests) == (1 if part == CONTENT else 2)


def test_another_checksum_is_refused_and_removed(server: FaultyServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"<html>log in first</html>"
    with pytest.raises(VitrellisError, match="has another checksum than the published"):
        fetch(remote(server), tmp_path, silent)
    assert not list((tmp_path / "sub").iterdir())


def test_a_file_that_the_server_does_not_have(server: FaultyServer, tmp_path: Path) -> None:
    where = tmp_path / "sub/a.bin"
    with pytest.raises(VitrellisError, match=rf"(?s)gone: the server answered 404 .*->  {where}"):
        fetch(remote(server, f"{server.address}/gone"), tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_no_network(server: FaultyServer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
    with pytest.raises(VitrellisError, match=r"(?s)could not be reached \(.*refused\).*put it"):
        fetch(remote(server, dead), tmp_path, silent)
    fetch(remote(server, dead, f"{server.address}/a.bin"), tmp_path, silent)  # a mirror has it
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(VitrellisError, match="cannot be written"):
        fetch(remote(server), tmp_path, silent)


def test_two_at_once_do_not_mix(server: FaultyServer, tmp_path: Path) -> None:
    def second(done: int, total: int | None) -> None:
        with pytest.raises(VitrellisError, match="another process is downloading it"):
            fetch(remote(server), tmp_path, silent)

    fetch(remote(server), tmp_path, second)
    assert (tmp_path / "sub/a.bin").read_bytes() == CONTENT
