from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.sources.python2_pickle import Value, dumps
from vitrellis.data.sources import Source, TensorImages
from vitrellis.data.sources.cifar import load_cifar10, load_cifar100
from vitrellis.errors import VitrellisError

FILES10 = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
LOADERS = {"cifar10": load_cifar10, "cifar100": load_cifar100}
META = {"cifar10": "batches.meta", "cifar100": "meta"}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
LABELS = {"cifar10": b"labels", "cifar100": b"fine_labels"}


def rows(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch10(seed: int) -> dict[bytes, Value]:
    return {
        b"batch_label": b"training batch %d of 5" % seed,
        b"labels": [(4 * seed + number) % 10 for number in range(4)],
        b"data": rows(4, seed),
        b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * 4,
    }


def batch100(count: int, seed: int) -> dict[bytes, Value]:
    return {
        b"filenames": [b"bos_taurus_s_000507.png"] * count,
        b"batch_label": b"training batch 1 of 1",
        b"fine_labels": [number % 100 for number in range(count)],
        b"coarse_labels": [number % 20 for number in range(count)],
        b"data": rows(count, seed),
    }


def contents(name: str) -> dict[str, dict[bytes, Value]]:
    """The files of a miniature archive, with the keys and in the layout of the original."""
    if name == "cifar10":
        files = {file: batch10(number) for number, file in enumerate(FILES10, 1)}
        names = [b"class%d" % number for number in range(10)]
        meta: dict[bytes, Value] = {b"num_cases_per_batch": 4, b"label_names": names}
        return {**files, "batches.meta": {**meta, b"num_vis": 3072}}
    fine = [b"fine%d" % number for number in range(100)]
    coarse = [b"coarse%d" % number for number in range(20)]
    return {
        "train": batch100(100, 1),
        "test": batch100(7, 2),
        "meta": {b"fine_label_names": fine, b"coarse_label_names": coarse},
    }


def write(parent: Path, name: str, **changed: dict[bytes, Value]) -> Path:
    folder = parent / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in {**contents(name), **changed}.items():
        (folder / file).write_bytes(dumps(content))
    return folder


def message(name: str, root: Path) -> str:
    with pytest.raises(VitrellisError) as caught:
        LOADERS[name](root)
    return str(caught.value)


def stacked(source: Source, split: str) -> torch.Tensor:
    images = source.splits[split].images
    assert isinstance(images, TensorImages)
    return images.tensor


def test_cifar10_in_the_order_of_its_batches(tmp_path: Path) -> None:
    source = load_cifar10(write(tmp_path, "cifar10"))
    assert source.class_names == tuple(f"class{number}" for number in range(10))
    assert list(source.splits) == ["train", "test"]
    expected = np.concatenate([rows(4, seed) for seed in range(1, 6)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(stacked(source, "train").numpy(), expected)
    assert source.train.labels.tolist()[:6] == [4, 5, 6, 7, 8, 9]
    assert np.array_equal(stacked(source, "test").flatten(1).numpy(), rows(4, 6))


def test_cifar100_has_fine_classes(tmp_path: Path) -> None:
    source = load_cifar100(write(tmp_path, "cifar100"))
    assert source.class_names == tuple(f"fine{number}" for number in range(100))
    assert source.class_counts.tolist() == [1] * 100
    assert stacked(source, "test").shape == (7, 3, 32, 32)


def test_planes_are_red_green_and_blue_row_by_row(tmp_path: Path) -> None:
    content = batch100(100, 0)
    image = np.zeros((3, 32, 32), dtype=np.uint8)
    image[2, 5, 7] = 200
    data = rows(100, 0)
    data[0] = image.reshape(-1)
    content[b"data"] = data
    source = load_cifar100(write(tmp_path, "cifar100", train=content))
    assert torch.nonzero(source.train.images[0]).tolist() == [[2, 5, 7]]


@pytest.mark.parametrize("name", LOADERS)
def test_the_root_may_be_the_folder_or_its_parent(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, name)
    assert LOADERS[name](folder).fingerprint() == LOADERS[name](tmp_path).fingerprint()


def test_images_can_be_made_grey(tmp_path: Path) -> None:
    assert load_cifar10(write(tmp_path, "cifar10"), channels=1).train.images[0].shape == (1, 32, 32)


@pytest.mark.parametrize("name", LOADERS)
def test_a_payload_is_refused_and_not_executed(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    payload = b"cos\nmkdir\n(S'" + str(marker).encode() + b"'\ntR."
    for file in (META[name], TEST[name]):
        folder = write(tmp_path, name)
        (folder / file).write_bytes(payload)
        assert f"{folder / file}: refused: this pickle asks for os.mkdir" in message(name, folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", LOADERS)
def test_missing_and_cut_off_files_are_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, name)
    test = folder / TEST[name]
    test.write_bytes(test.read_bytes()[:2000])
    assert f"{test}: is not a pickle, or damaged or cut off" in message(name, folder)
    test.unlink()
    assert f"{test}: no such file" in message(name, folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({b"data": None}, "has no 'data'"),
        ({b"data": rows(4, 0)[:, :1024]}, r"'data' should be uint8 of shape \(N, 3072\), and is"),
        ({b"data": [1, 2]}, "'data' should be uint8 .* and is a list"),
        ({b"data": rows(3, 0)}, "'(fine_)?labels' for 3 rows of 'data'"),
        ({b"LABELS": None}, "has no '(fine_)?labels'"),
        ({b"LABELS": [0, 100, 1, 2]}, "'(fine_)?labels' has 100; with 10+ class names"),
        ({b"LABELS": [0, -1, 1, 2]}, "'(fine_)?labels' has -1"),
        ({b"LABELS": [b"a"]}, "'(fine_)?labels' should be a list of whole numbers"),
    ],
)
def test_wrong_contents_are_named_with_file_and_key(
    tmp_path: Path, change: dict[bytes, Value | None], expected: str
) -> None:
    for name in LOADERS:
        content = dict(contents(name)[TEST[name]])
        for key, value in change.items():
            key = LABELS[name] if key == b"LABELS" else key
            if value is None:
                del content[key]
            else:
                content[key] = value
        folder = write(tmp_path, name, **{TEST[name]: content})
        with pytest.raises(VitrellisError, match=f"{folder / TEST[name]}: .*{expected}"):
            LOADERS[name](folder)


@pytest.mark.parametrize("name", LOADERS)
def test_wrong_class_names_are_told(tmp_path: Path, name: str) -> None:
    key = {"cifar10": b"label_names", "cifar100": b"fine_label_names"}[name]
    wrong: list[tuple[Value, str]] = [
        (3, "a list of class names"),
        ([b"\xff"], "not readable as text"),
    ]
    for value, expected in wrong:
        folder = write(tmp_path, name, **{META[name]: {key: value}})
        assert f"'{key.decode()}'" in message(name, folder)
        assert expected in message(name, folder)


def test_a_list_is_no_archive(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar100")
    (folder / "meta").write_bytes(b"]K\x01a.")
    assert "meta: should hold a dict, and holds a list" in message("cifar100", folder)


ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def pack(root: Path, name: str) -> Path:
    """Packs the folder as the original archives are, and deletes it."""
    folder = write(root, name)
    archive = root / ARCHIVES[name]
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    shutil.rmtree(folder)
    return archive


@pytest.mark.parametrize("name", LOADERS)
def test_a_packed_archive_is_read_as_its_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / "unpacked", name)
    expected = LOADERS[name](tmp_path / "unpacked")
    pack(tmp_path, name)
    source = LOADERS[name](tmp_path)
    assert source.class_names == expected.class_names
    assert source.fingerprint() == expected.fingerprint()
    assert [path.name for path in tmp_path.iterdir() if path.name != "unpacked"] == [ARCHIVES[name]]


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path, name)
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an archive", whole[:-400] + bytes(400)):
        archive.write_bytes(content)
        assert message(name, tmp_path).startswith(str(archive))


def test_an_archive_is_never_followed_or_executed(tmp_path: Path) -> None:
    """A link of the right name is no file, and a pickle in it is read as plainly as elsewhere."""
    with tarfile.open(tmp_path / ARCHIVES["cifar100"], "w:gz") as packed:
        for file in ("meta", "train", "test"):
            member = tarfile.TarInfo(f"cifar-100-python/{file}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            packed.addfile(member)
    assert "holds no cifar-100-python/meta" in message("cifar100", tmp_path)
    with tarfile.open(tmp_path / ARCHIVES["cifar100"], "w:gz") as packed:
        for file in ("meta", "train", "test"):
            content = b"cos\nsystem\n(S'false'\ntR."
            member = tarfile.TarInfo(f"cifar-100-python/{file}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    assert "refused: this pickle asks for os.system" in message("cifar100", tmp_path)


def test_another_folder_is_told_what_is_wanted(tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    told = message("cifar100", tmp_path)
    assert "does not hold cifar-100-python/ (from cifar-100-python.tar.gz)" in told
    assert "train, test, meta" in told
