"""Tar shards that others wrote, in a folder and behind an address."""

from __future__ import annotations

import io
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from PIL import Image

from vitrellis.data.packing.pack import pack
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 0, 255 - shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "shards"
    root.mkdir()
    first = {"d/a.b/1.png": png(10), "d/a.b/1.cls": b"1\n", "2.cls": b"0", "2.png": png(20)}
    write_tar(root / "train-000000.tar", first)
    write_tar(root / "train-000001.tar", {"3.json": b'{"label": 1, "x": 2}', "3.PNG": png(30)})
    write_tar(root / "val_0.tar", {"4.png": png(40), "4.cls": b"0", "4.txt": b"a caption"})
    return root


def shades(root: Path | None, **args: str) -> dict[str, list[int]]:
    splits = load_source("webdataset", root, args=args).splits
    return {k: [int(s.images[n][0, 0, 0]) for n in range(len(s))] for k, s in splits.items()}


def test_splits_and_labels(shards: Path) -> None:
    source = load_source("webdataset", shards)
    assert source.class_names == ("0", "1")
    assert source.train.labels.tolist() == [1, 0, 1]
    assert shades(shards) == {"train": [10, 20, 30], "val": [40]}
    assert source.train.images.name(0).endswith("train-000000.tar: d/a.b/1.png")
    (shards / "classes.txt").write_text("no\nyes\n")
    assert load_source("webdataset", shards).class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": png(1)}, r"train-9\.tar: 1\.png: has no label; 1\.cls"),
        ({"1.png": png(1), "1.cls": b"cat"}, "holds 'cat'; a class number from 0 is expected"),
        ({"1.png": png(1), "1.json": b"{"}, "is not JSON"),
        ({"1.png": png(1), "1.json": b'{"label": "cat"}'}, "has no class number from 0 under"),
        ({"1.png": png(1), "1.jpg": png(1), "1.cls": b"0"}, "the sample 1 has a second image"),
        (
            {"1.png": png(1), "1.cls": b"7", "2.png": png(1), "2.cls": b"7"},
            "has the class number 7, with 6 images in all",
        ),
    ],
)
def test_shards_that_are_wrong(shards: Path, members: dict[str, bytes], message: str) -> None:
    write_tar(shards / "train-9.tar", members)
    with pytest.raises(VitrellisError, match=message):
        load_source("webdataset", shards)


def test_shards_that_cannot_be_read(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "train-000000.tar").read_bytes()
    (shards / "train-000000.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(VitrellisError, match="is no tar file, or damaged or cut off"):
        load_source("webdataset", shards)
    (shards / "train-000000.tar").write_bytes(whole[:600])
    with pytest.raises(VitrellisError, match=r"damaged or cut off|was cut off"):
        load_source("webdataset", shards)
    write_tar(tmp_path / "c.tar.gz", {"1.png": png(1)}, "w:gz")
    with pytest.raises(VitrellisError, match=r"holds no \.tar files.* c\.tar\.gz is compressed"):
        load_source("webdataset", tmp_path)


def test_members_are_never_unpacked(shards: Path, tmp_path: Path) -> None:
    members = {"../../evil.png": png(1), "../../evil.cls": b"0", "/tmp/evil.png": png(2)}
    write_tar(shards / "train-9.tar", members | {"/tmp/evil.cls": b"1"})
    load_source("webdataset", shards)
    assert not (tmp_path / "evil.png").exists()
    assert not list(tmp_path.rglob("evil*"))


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves parts of files, as object stores do; Python's own handler serves whole files only."""

    requests: list[str]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        self.requests.append(f"{path.name} {wanted}")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        content = path.read_bytes()
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []
    handler = type("Handler", (RangeHandler,), {"requests": requests})
    with serving(partial(handler, directory=str(tmp_path))) as address:
        yield address, requests


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """The address of a server on this machine, which ends with the block."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.mark.parametrize("is_packed", [False, True])
def test_shards_behind_an_address(
    shards: Path, tmp_path: Path, server: tuple[str, list[str]], is_packed: bool
) -> None:
    address, requests = server
    name = "shards"
    if is_packed:
        name = "packed"
        pack(load_source("webdataset", shards), tmp_path / name, form="tar")
    local = load_source("webdataset", tmp_path / name)
    remote = load_source("webdataset", None, args={"url": f"{address}/{name}"})
    for split, part in local.splits.items():
        assert torch.equal(part.labels, remote.splits[split].labels)
        for index in range(len(part)):
            assert torch.equal(part.images[index], remote.splits[split].images[index])
    requests.clear()
    remote.train.images[1]
    assert len(requests) == 1
    assert "bytes=" in requests[0]


def test_addresses_that_are_wrong(shards: Path, server: tuple[str, list[str]]) -> None:
    address, _ = server
    with pytest.raises(UsageError, match=r"are both given"):
        load_source("webdataset", shards, args={"url": address})
    with pytest.raises(VitrellisError, match=r"cannot be listed|cannot be read|holds no"):
        load_source("webdataset", None, args={"url": f"{address}/gone"})
    with pytest.raises(UsageError, match=r"is no address that can be read .*nothing"):
        load_source("webdataset", None, args={"url": "nothing://host/set"})


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_object_store(shards: Path, tmp_path: Path, is_packed: bool) -> None:
    """fsspec's store in memory has the interface of s3fs and gcsfs."""
    store = fsspec.filesystem("memory")
    local = shards
    if is_packed:
        local = tmp_path / "packed"
        pack(load_source("webdataset", shards), local, form="tar")
    base = f"memory://bucket-{is_packed}/set"
    for file in local.iterdir():
        store.pipe_file(f"{base}/{file.name}", file.read_bytes())
    ours = load_source("webdataset", None, args={"url": base})
    expected = load_source("webdataset", local)
    assert list(ours.splits) == list(expected.splits)
    for name, split in expected.splits.items():
        assert torch.equal(split.labels, ours.splits[name].labels)
        for index in range(len(split)):
            assert torch.equal(split.images[index], ours.splits[name].images[index])
    store.rm(f"{base}/val_0.tar" if not is_packed else f"{base}/val-000000.tar")
    assert ours.val is not None
    with pytest.raises(VitrellisError, match=r"val.*\.tar: no such file"):
        ours.val.images[0]


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://bucket/set", "s3"), ("gs://bucket/set", "gcs"), ("az://b/s", None)]
)
def test_a_store_whose_package_is_missing(
    url: str, extra: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    remedy = rf"pip install 'vitrellis\[{extra}\]'" if extra else "Install adlfs"
    with pytest.raises(VitrellisError, match=f"needs one more package: {remedy}"):
        load_source("webdataset", None, args={"url": url})


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_refuses(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RangeHandler) -> None:
        self.send_error(status)

    monkeypatch.setattr(RangeHandler, "do_GET", refuse)
    monkeypatch.setattr(RangeHandler, "do_HEAD", refuse)
    handler = type("Handler", (RangeHandler,), {"requests": []})
    with serving(handler) as address, pytest.raises(VitrellisError, match=f"{address}.*{status}"):
        load_source("webdataset", None, args={"url": f"{address}/set"})


@pytest.mark.parametrize("address", ["reference://x.json", "simplecache::https://x.org/a.tar"])
def test_addresses_that_name_others_are_not_followed(address: str) -> None:
    with pytest.raises(UsageError, match="chains and references of fsspec are not read"):
        load_source("webdataset", None, args={"url": address})
