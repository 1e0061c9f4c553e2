"""A small dataset in every layout, with the files of the original."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from tests.data.sources import (
    test_cifar,
    test_elpv,
    test_fashion_mnist,
    test_inaturalist,
    test_tiny_imagenet,
)
from vitrellis.data.packing.pack import pack
from vitrellis.data.sources import load_source


class Layout(NamedTuple):
    """A dataset in a folder.

    Attributes:
        source: The name of its source.
        root: Its `data.root`.
        arguments: Its `data.args`.
    """

    source: str
    root: Path
    arguments: dict[str, Any]


def picture(seed: int, side: int = 8, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG" if seed % 2 else "JPEG")
    return buffer.getvalue()


def write(file: Path, seed: int, mode: str = "RGB") -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, mode=mode).save(file)
    return file.name


def folder(root: Path) -> Layout:
    for split, count in {"train": 3, "val": 1, "test": 2}.items():
        for number in range(2 * count):
            suffix = ("png", "jpg", "bmp", "gif", "webp", "tif")[number]
            write(root / split / ("cat", "dog")[number % 2] / f"{number}.{suffix}", number)
    return Layout("folder", root, {})


def lists(root: Path, prefix: str = "") -> Layout:
    for split in ("train", "val", "test"):
        lines = []
        for number in range(4):
            path = f"{split}/{'ab'[number % 2]}/{number}.jpg"
            write(root / path, number)
            lines.append(f"{path} {number % 2}\n")
        (root / f"{prefix}{split}.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("ash\nfir\n")
    return Layout("lists", root, {})


def imagenet_lt(root: Path) -> Layout:
    lists(root, "ImageNet_LT_")
    return Layout("imagenet-lt", root, {})


def inaturalist_lists(root: Path) -> Layout:
    lists(root, "iNaturalist18_")
    return Layout("inaturalist-2018", root, {})


def domainnet(root: Path) -> Layout:
    lists(root, "clipart_")
    return Layout("domainnet", root, {"domain": "clipart"})


def imagenet(root: Path) -> Layout:
    for number in range(8):
        split, name = ("train", "val")[number % 4 == 3], f"n0{number % 2}440764"
        write(root / split / name / f"{number}.JPEG", number)
    lines = [f"n0{k}440764 {name}, x\n" for k, name in enumerate(("tench", "goldfish"))]
    (root / "LOC_synset_mapping.txt").write_text("".join(lines))
    for k in range(2):
        write(root / "val" / f"n0{k}440764" / "v.JPEG", k)
    return Layout("imagenet", root, {})


def _rows(root: Path) -> list[dict[str, Any]]:
    splits = ("train", "train", "train", "train", "val", "test")
    names = [write(root / f"{n}.png", n) for n in range(len(splits))]
    return [
        {"path": name, "label": "cd"[n % 2], "split": split}
        for n, (name, split) in enumerate(zip(names, splits, strict=True))
    ]


def table_csv(root: Path) -> Layout:
    lines = [",".join(row.values()) for row in _rows(root)]
    (root / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    return Layout("table", root, {})


def table_json_lines(root: Path) -> Layout:
    (root / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(root)))
    return Layout("table", root, {})


def table_parquet(root: Path) -> Layout:
    parquet.write_table(pyarrow.Table.from_pylist(_rows(root)), root / "table.parquet")
    return Layout("table", root, {})


def _arrays() -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for split, count in {"train": 6, "val": 2, "test": 2}.items():
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        arrays |= {f"{split}_images": pixels, f"{split}_labels": np.arange(count)[:, None] % 2}
    return arrays


def npz(root: Path) -> Layout:
    np.savez_compressed(root / "set.npz", **_arrays())
    return Layout("arrays", root, {})


def npy(root: Path) -> Layout:
    for name, array in _arrays().items():
        np.save(root / f"{name}.npy", array)
    (root / "classes.txt").write_text("no\nyes\n")
    return Layout("arrays", root, {})


def medmnist(root: Path) -> Layout:
    np.savez(root / "breastmnist.npz", **_arrays())
    return Layout("medmnist", root, {})


def cifar10(root: Path) -> Layout:
    test_cifar.write(root, "cifar10")
    return Layout("cifar10", root, {})


def cifar100_archive(root: Path) -> Layout:
    unpacked = test_cifar.write(root / "x", "cifar100")
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(unpacked, unpacked.name)
    for file in unpacked.iterdir():
        file.unlink()
    unpacked.rmdir()
    (root / "x").rmdir()
    return Layout("cifar100", root, {})


def flowers102(root: Path) -> Layout:
    numbers = np.arange(1, 3 * 102 + 1)
    for number in numbers:
        write(root / "jpg" / f"image_{number:05}.jpg", int(number) % 7)
    labels = (numbers - 1) % 102 + 1
    savemat(root / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    thirds = dict(zip(("trnid", "valid", "tstid"), np.split(numbers[None], 3, axis=1), strict=True))
    savemat(
        root / "setid.mat", {k: v.astype(np.uint16) for k, v in thirds.items()}, do_compression=True
    )
    return Layout("flowers102", root, {"official_val": True})


def fashion_mnist(root: Path) -> Layout:
    test_fashion_mnist.write_folder(root, ".gz")
    for file in list(root.glob("t10k*.gz")):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    return Layout("fashion-mnist", root, {})


def tiny_imagenet(root: Path) -> Layout:
    test_tiny_imagenet.write(root)
    return Layout("tiny-imagenet", root, {})


def inaturalist(root: Path) -> Layout:
    test_inaturalist.write(root)
    return Layout("inaturalist", root, {})


def chaoyang(root: Path) -> Layout:
    for split in ("train", "test"):
        rows = [
            {
                "name": f"{split}/{write(root / split / f'{n}.JPG', n)}",
                "label": n % 4,
                "label_A": n % 4,
                "label_B": 0,
                "label_C": 0,
            }
            for n in range(6)
        ]
        (root / f"{split}.json").write_text(json.dumps(rows))
    return Layout("chaoyang", root, {"annotator": "A"})


def elpv(root: Path) -> Layout:
    test_elpv.write(root, divisor=40)
    return Layout("elpv", root, {})


def lmdb(root: Path) -> Layout:
    source = load_source("folder", folder(root.parent / f"{root.name}-lmdb").root)
    pack(source, root / "set.lmdb", form="lmdb")
    return Layout("lmdb", root / "set.lmdb", {})


def packed_shards(root: Path) -> Layout:
    source = load_source("folder", folder(root.parent / f"{root.name}-tar").root)
    pack(source, root / "set", form="tar")
    return Layout("webdataset", root / "set", {})


def shards(root: Path) -> Layout:
    for split, count in {"train": 6, "val": 2}.items():
        with tarfile.open(root / f"{split}-000000.tar", "w") as archive:
            for n in range(count):
                label = (".json", b'{"label": %d}') if n % 2 else (".cls", b"%d")
                for suffix, content in (
                    (".png", encoded(n)),
                    (label[0], label[1] % (n % 2)),
                ):
                    member = tarfile.TarInfo(f"{n:04}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (root / "classes.txt").write_text("no\nyes\n")
    return Layout("webdataset", root, {})


_FEATURES: dict[str, Any] = {
    "image": {"_type": "Image"},
    "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
}


def _arrow(count: int) -> Any:
    images = [{"bytes": encoded(n), "path": None} for n in range(count)]
    kinds = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = [
        pyarrow.array(images, kinds),
        pyarrow.array([n % 2 for n in range(count)], pyarrow.int64()),
    ]
    table = pyarrow.table(columns, names=["image", "label"])
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    )


def saved_dataset(root: Path) -> Layout:
    """What `DatasetDict.save_to_disk` writes, without the library."""
    for split, count in {"train": 6, "test": 2}.items():
        (root / split).mkdir()
        with pyarrow.ipc.new_stream(
            str(root / split / "data-00000-of-00001.arrow"), _arrow(count).schema
        ) as stream:
            stream.write_table(_arrow(count), max_chunksize=4)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0"}
        (root / split / "state.json").write_text(json.dumps(state))
        (root / split / "dataset_info.json").write_text(json.dumps({"features": _FEATURES}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return Layout("huggingface", root, {})


def hub_dataset(root: Path) -> Layout:
    (root / "data").mkdir()
    for split, count in {"train": 6, "validation": 2}.items():
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(_arrow(count), file, row_group_size=4)
    return Layout("huggingface", root, {})


def image_metadata(root: Path) -> Layout:
    for split, count in {"train": 4, "test": 2}.items():
        names = [write(root / split / f"{n}.png", n) for n in range(count)]
        lines = [f"{name},{'no' if n % 2 else 'yes'}" for n, name in enumerate(names)]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    return Layout("huggingface", root, {})


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    make.__name__: make
    for make in (
        folder,
        lists,
        imagenet_lt,
        inaturalist_lists,
        domainnet,
        imagenet,
        table_csv,
        table_json_lines,
        table_parquet,
        npz,
        npy,
        medmnist,
        cifar10,
        cifar100_archive,
        flowers102,
        fashion_mnist,
        tiny_imagenet,
        inaturalist,
        chaoyang,
        elpv,
        lmdb,
        packed_shards,
        shards,
        saved_dataset,
        hub_dataset,
        image_metadata,
    )
}
"""What writes each layout into an empty folder, by a name for the test."""
