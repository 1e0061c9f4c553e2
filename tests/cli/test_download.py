"""`vitrellis data download` against a server on this machine, with tiny archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from tests.cli.command import run_here
from tests.data.downloads.faulty_server import FaultyServer, serving
from tests.data.sources import test_cifar, test_fashion_mnist
from tests.data.sources.replicas import write_image
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.data.source import DOWNLOADABLE
from vitrellis.data.sources import load_source
from vitrellis.recipe import load_recipe


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Serves a miniature of each dataset, to which torchvision's addresses and checksums lead."""
    build = tmp_path / "build"
    cifar = {n: tar_of(test_cifar.write(build, n)) for n in ("cifar10", "cifar100")}
    (build / "fashion").mkdir()
    test_fashion_mnist.write_folder(build / "fashion", ".gz")
    fashion = {path.name: path.read_bytes() for path in (build / "fashion").iterdir()}
    numbers = np.arange(1, 3 * 102 + 1)
    for number in numbers:
        write_image(build / "flowers/jpg" / f"image_{number:05}.jpg", int(number) % 250)
    labels = (numbers - 1) % 102 + 1
    savemat(build / "flowers/imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    thirds = dict(zip(("trnid", "valid", "tstid"), np.split(numbers[None], 3, axis=1), strict=True))
    savemat(build / "flowers/setid.mat", {k: v.astype(np.uint16) for k, v in thirds.items()})
    flowers = {
        "102flowers.tgz": tar_of(build / "flowers/jpg"),
        "imagelabels.mat": (build / "flowers/imagelabels.mat").read_bytes(),
        "setid.mat": (build / "flowers/setid.mat").read_bytes(),
    }
    everything = {f"/{n}": content for n, content in (cifar | fashion | flowers).items()}
    with serving(everything) as state:
        for kind, name in ((datasets.CIFAR10, "cifar10"), (datasets.CIFAR100, "cifar100")):
            monkeypatch.setattr(kind, "url", f"{state.address}/{name}")
            monkeypatch.setattr(kind, "tgz_md5", md5(cifar[name]))
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"{state.address}/"])
        resources = [(name, md5(fashion[name])) for name, _ in datasets.FashionMNIST.resources]
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
        known = datasets.Flowers102._file_dict
        declared = {key: (name, md5(flowers[name])) for key, (name, _) in known.items()}
        monkeypatch.setattr(datasets.Flowers102, "_file_dict", declared)
        monkeypatch.setattr(datasets.Flowers102, "_download_url_prefix", f"{state.address}/")
        yield state


@pytest.mark.parametrize("name", sorted(DOWNLOADABLE))
def test_what_is_downloaded_can_be_trained_on(
    name: str, server: FaultyServer, tmp_path: Path
) -> None:
    out, _ = run_here("data", "download", name, "--root", "sets", cwd=tmp_path)
    assert "downloaded and checked: sets/" in out
    command = out.splitlines()[-1].removeprefix("Train with:  vitrellis ")
    assert " data.root=sets" in command
    asked = len(server.requests)
    again, _ = run_here("data", "download", name, "--root", "sets", cwd=tmp_path)
    assert "everything is there, nothing was downloaded: sets/" in again
    assert again.splitlines()[-1] == out.splitlines()[-1]
    told = json.loads(
        run_here("data", "download", name, "--root", "sets", "--json", cwd=tmp_path).out
    )
    assert told["command"] == f"vitrellis {command}"
    assert told["fetched"] == []
    assert told["present"]
    assert len(server.requests) == asked
    recipe, *words = command.split()[1:]
    with contextlib.chdir(tmp_path):
        source = build_source(load_recipe(recipe, [*words, "data.val_fraction=0"]))
    assert source.name == name
    assert len(source.train) == {"cifar10": 20, "cifar100": 100, "fashion-mnist": 10}.get(name, 204)


def test_torchvision_finds_what_was_downloaded(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fashion-mnist", "flowers102"):
        run_here("data", "download", name, "--root", str(tmp_path))
    asked = len(server.requests)
    fashion = datasets.FashionMNIST(tmp_path, train=False, download=True)
    flowers = datasets.Flowers102(tmp_path, "test", download=True)
    assert len(server.requests) == asked
    ours = load_source("fashion-mnist", tmp_path).splits["test"]
    assert (fashion.data.numpy() == ours.images[3].numpy()).all(axis=(1, 2)).any()
    assert fashion.targets.tolist() == ours.labels.tolist()
    assert flowers._labels == load_source("flowers102", tmp_path).splits["test"].labels.tolist()


def test_an_interrupted_unpacking_begins_again(server: FaultyServer, tmp_path: Path) -> None:
    folder = tmp_path / "data/flowers-102"
    (folder / ".jpg.partial/jpg").mkdir(parents=True)
    (folder / ".jpg.partial/jpg/image_00001.jpg").write_text("half")
    (folder / "102flowers.tgz").write_bytes(server.files["/102flowers.tgz"])
    out, _ = run_here("data", "download", "flowers102", cwd=tmp_path)
    assert "102flowers.tgz" not in out  # it was there
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["imagelabels.mat", "jpg", "setid.mat"]
    assert len(list((folder / "jpg").iterdir())) == 306


def test_an_archive_cannot_write_outside_of_its_folder(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../evil.jpg"))
    server.files["/102flowers.tgz"] = buffer.getvalue()
    known = datasets.Flowers102._file_dict
    changed = known | {"image": ("102flowers.tgz", md5(buffer.getvalue()))}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", changed)
    _, err = run_here("data", "download", "flowers102", cwd=tmp_path, code=1)
    assert "102flowers.tgz: cannot be unpacked" in err
    assert not list(tmp_path.rglob("evil*"))


def test_messages(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = run_here("data", "download", "cifar1000", cwd=tmp_path, code=2)
    assert "Did you mean 'cifar100'?" in err
    server.files["/cifar100"] = b"something else"
    _, err = run_here("data", "download", "cifar100", cwd=tmp_path, code=1)
    assert "has another checksum" in err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(datasets.CIFAR100, "url", f"{dead}/cifar.tar.gz")
    _, err = run_here("data", "download", "cifar100", cwd=tmp_path, code=1)
    assert f"error: {dead}/cifar.tar.gz: could not be reached (Connection refused)" in err
    assert err.endswith(f"{dead}/cifar.tar.gz  ->  data/cifar-100-python.tar.gz\n")
    assert not (tmp_path / "data").exists()
    server.files.pop("/setid.mat")
    _, err = run_here("data", "download", "flowers102", cwd=tmp_path, code=1)
    assert "setid.mat: the server answered 404" in err
    assert err.count("  ->  ") == 1  # the others are there


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "flowers102"])
def test_a_missing_root_names_the_command(name: str, tmp_path: Path) -> None:
    words = ["train", "cifar100-resnet56", f"data.source={name}"]
    _, err = run_here(*words, cwd=tmp_path, code=1)
    assert f"`vitrellis data download {name}` fetches it" in err
    _, err = run_here(*words, "data.root=my sets", cwd=tmp_path, code=1)
    assert f"`vitrellis data download {name} --root 'my sets'` fetches it" in err
    (tmp_path / "empty").mkdir()
    _, err = run_here(*words, "data.root=empty", cwd=tmp_path, code=1)
    assert f"`vitrellis data download {name} --root empty` fetches it" in err
