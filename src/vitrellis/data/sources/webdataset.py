"""Tar shards as WebDataset names them: those of `vitrellis data pack`, and those of others.

The members of a sample have one name and different endings: an image, and its class number in
`.cls` or in the key `label` or `cls` of `.json`. Shards of others belong to the split that their
name begins with (`train-000000.tar`, `val_1.tar`); if none names a split, all are for training.
Shards may lie behind an address (`data.args.url`); each image is then read by its own request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from vitrellis.data.channels import chosen_channels
from vitrellis.data.packing.pack_index import read_index
from vitrellis.data.packing.storage import filesystem_of, storage_errors
from vitrellis.data.packing.tar_shards import INDEX_FILE, MemberPlace, TarShards, place_key
from vitrellis.data.source import Source, Split
from vitrellis.data.sources.decoding import IMAGE_SUFFIXES, decode_image
from vitrellis.data.sources.encoded import EncodedImages
from vitrellis.data.sources.names_in_files import SPLIT_WORDS, check_class_numbers, class_names_in
from vitrellis.data.sources.packed import source_of_index
from vitrellis.errors import UsageError, VitrellisError

_CONTENTS = "tar shards, such as train-000000.tar"
_PROBED = 32  # images that tell how many channels there are


class _Sample(NamedTuple):
    """An image and its label."""

    name: str
    image: MemberPlace
    label: int


def load_webdataset(
    root: Path | None, channels: int | None = None, *, url: str | None = None
) -> Source:
    """Images in tar shards.

    Classes have the names in `classes.txt`, one a line; else their numbers.

    Args:
        root: The folder of the shards.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.
        url: The address of the folder, instead of `data.root`: `https://...`, `s3://...` and
            others that fsspec knows.

    Raises:
        UsageError: If neither or both are given, or the address is of an unknown kind.
        VitrellisError: If a shard is missing or damaged, or an image has no label.
    """
    if url is not None and root is not None:
        raise UsageError("data.args.url and data.root are both given; give one of them")
    base = str(url) if url is not None else str(_folder(root))
    index = _optional_file(f"{base}/{INDEX_FILE}")
    if index is not None:
        found = read_index(index, f"{base}/{INDEX_FILE}")
        return source_of_index(TarShards(base, found.shards), found, channels)
    shards = TarShards(base, _shard_names(base))
    samples: dict[str, list[_Sample]] = {"train": [], "val": [], "test": []}
    for number, name in enumerate(shards.shards):
        samples[_split_of(name)] += _samples(shards, number)
    if not samples["train"] and not samples["val"] + samples["test"]:
        raise VitrellisError(f"{base}: its shards hold no images")
    names = _class_names(base, samples)
    own, bad = _probed(shards, samples["train"][:_PROBED], channels)
    splits = {
        split: Split(
            EncodedImages(
                shards,
                [place_key(sample.image) for sample in part],
                [sample.name for sample in part],
                own,
                None,
                "\n".join(shards.shards),
                bad if split == "train" else {},
            ),
            torch.tensor([sample.label for sample in part], dtype=torch.int64),
        )
        for split, part in samples.items()
        if part
    }
    if "train" not in splits:
        raise VitrellisError(f"{base}: no shard is for training: {', '.join(shards.shards[:5])}")
    return Source(
        "webdataset", names, splits["train"], splits.get("val"), splits.get("test")
    ).checked()


def _probed(
    shards: TarShards, samples: list[_Sample], wanted: int | None
) -> tuple[int, dict[int, str]]:
    """The number of channels, by the first images, and why some of them cannot be read."""
    examples: dict[int, str] = {}
    bad: dict[int, str] = {}
    for index, sample in enumerate(samples):
        try:
            content = shards.read(place_key(sample.image))
            examples.setdefault(len(decode_image(content, None, sample.name)), sample.name)
        except VitrellisError as error:
            bad[index] = str(error)
    if samples and not examples:
        raise VitrellisError(bad[0])
    return chosen_channels(examples, wanted) if examples else wanted or 3, bad


def _folder(root: Path | None) -> Path:
    if root is None:
        raise VitrellisError(
            f"source 'webdataset' needs data.root: a folder with {_CONTENTS}; or data.args.url"
        )
    folder = root.expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise VitrellisError(f"data.root: {problem}: {folder}. It should hold {_CONTENTS}")
    return folder


def _optional_file(where: str) -> bytes | None:
    """The bytes of a file, or None if there is none."""
    filesystem, path = filesystem_of(where)
    try:
        with filesystem.open(path, "rb") as file:
            content: bytes = file.read()
    except FileNotFoundError:
        return None
    except storage_errors() as error:
        raise VitrellisError(f"{where}: cannot be read ({error})") from None
    return content


def _shard_names(base: str) -> list[str]:
    filesystem, folder = filesystem_of(base)
    try:
        paths = filesystem.ls(folder, detail=False)
    except storage_errors() as error:
        raise VitrellisError(f"{base}: its files cannot be listed ({error})") from None
    names = sorted(PurePosixPath(path).name for path in paths)
    shards = [name for name in names if name.endswith(".tar")]
    if not shards:
        compressed = [name for name in names if re.search(r"\.(tgz|tar\.\w+)$", name)]
        more = f". {compressed[0]} is compressed; unpack it to .tar first" if compressed else ""
        raise VitrellisError(f"{base}: holds no .tar files. It should hold {_CONTENTS}{more}")
    return shards


def _split_of(shard: str) -> str:
    word = re.match(r"[a-z]*", shard.lower())
    assert word is not None
    return SPLIT_WORDS.get(word[0], "train")


def _samples(shards: TarShards, shard: int) -> Iterator[_Sample]:
    """The samples of a shard, in the order of their images."""
    images: dict[str, tuple[str, MemberPlace]] = {}
    labels: dict[str, int] = {}
    for member in shards.members(shard):
        path = PurePosixPath(member.name)
        stem, _, endings = path.name.partition(".")
        key, suffix = str(path.parent / stem), "." + endings.lower()
        where = f"{shards.where(shard)}: {member.name}"
        if suffix in IMAGE_SUFFIXES:
            if key in images:
                raise VitrellisError(f"{where}: the sample {key} has a second image")
            images[key] = (where, member.place)
        elif suffix == ".cls":
            labels[key] = _class_number(shards.read(place_key(member.place)), where)
        elif suffix == ".json" and key not in labels:
            labels[key] = _json_label(shards.read(place_key(member.place)), where)
    for key, (where, place) in images.items():
        if key not in labels:
            raise VitrellisError(
                f"{where}: has no label; {key}.cls with its class number should be beside it"
            )
        yield _Sample(where, place, labels[key])


def _class_number(content: bytes, where: str) -> int:
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise VitrellisError(f"{where}: holds {text[:40]!r}; a class number from 0 is expected")
    return int(text)


def _json_label(content: bytes, where: str) -> int:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise VitrellisError(f"{where}: is not JSON ({error})") from None
    for key in ("label", "cls"):
        label = values.get(key) if isinstance(values, dict) else None
        if type(label) is int and label >= 0:
            return label
    raise VitrellisError(f"{where}: has no class number from 0 under 'label' or 'cls'")


def _class_names(base: str, samples: Mapping[str, list[_Sample]]) -> tuple[str, ...]:
    labels = [sample.label for part in samples.values() for sample in part]
    check_class_numbers(labels, base)
    highest = max(labels)
    content = _optional_file(f"{base}/classes.txt")
    if content is None:
        return tuple(str(number) for number in range(highest + 1))
    return class_names_in(content.decode(errors="replace"), highest, f"{base}/classes.txt")


LAYOUTS = {"webdataset": load_webdataset}
RECOGNIZED_BY = {
    "webdataset": lambda root: (
        root.is_dir() and ((root / INDEX_FILE).is_file() or any(root.glob("*.tar")))
    )
}
