"""Datasets of Hugging Face on disk: what `save_to_disk` wrote, and Parquet files of the hub.

https://huggingface.co/docs/datasets. Either `dataset_dict.json` with a folder of Arrow files for
each split, or such a folder alone, or Parquet files whose names begin with their split
(`data/train-00000-of-00001.parquet`). A folder of images with `metadata.csv` or `metadata.jsonl`
is read by `image_metadata.py`. Scripts of a dataset are never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vitrellis.data.formats.arrow_files import ArrowFile, ArrowImages
from vitrellis.data.formats.json_files import read_json
from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.encoded import encoded_splits
from vitrellis.data.sources.files import digest_of_ends, path_below
from vitrellis.data.sources.image_metadata import load_image_metadata, metadata_files
from vitrellis.data.sources.names_in_files import SPLIT_WORDS
from vitrellis.errors import UsageError, VitrellisError, unknown_name

_CONTENTS = (
    "a dataset of Hugging Face: dataset_dict.json or state.json (as save_to_disk writes them), "
    "Parquet files such as data/train-00000-of-00001.parquet, or images with metadata.csv or "
    "metadata.jsonl"
)
_HIDDEN = -1  # the label of test images whose class is secret


class _Files(NamedTuple):
    """The files of each split, and what is said about their columns."""

    of_split: dict[str, list[Path]]
    features: dict[str, Any]
    notes: tuple[str, ...] = ()


def load_huggingface(
    root: Path | None,
    channels: int | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
) -> Source:
    """A dataset of Hugging Face's `datasets` that is on disk.

    Classes have the names of the label's `ClassLabel`; labels without names are numbered in the
    order of their sizes, words in that of their Unicode characters.

    Args:
        root: The folder that `save_to_disk` wrote, or a snapshot of the hub.
        channels: 1 or 3 to make all images grey or colour; None chooses grey if all are.
        image_column: The column of images, if there are several.
        label_column: The column of labels, if there are several.
        config: The configuration, if the folder holds several: the folder of its Parquet files.

    Raises:
        UsageError: If a column or a configuration has to be named, or there is none of that name.
        VitrellisError: If the folder holds no such dataset, or a file of it is damaged.
    """
    folder = root_folder(root, "huggingface", _CONTENTS)
    if metadata_files(folder) and not _is_saved(folder):
        return load_image_metadata(folder, channels, label_column=label_column)
    found = _saved(folder) if _is_saved(folder) else _shards(folder, config)
    files = {split: [ArrowFile(path) for path in part] for split, part in found.of_split.items()}
    if "train" not in files:
        raise VitrellisError(f"{folder}: has no split called train; it has {', '.join(files)}")
    first = files["train"][0]
    features = found.features or first.features()
    _check_columns(files)
    image_at = _image_column(first, features, image_column)
    label_at = _label_column(first, features, label_column, image_at)
    labels = {
        split: [value for file in part for value in file.column(label_at)]
        for split, part in files.items()
    }
    notes = [*found.notes]
    if set(labels.get("test", ())) == {_HIDDEN}:
        notes.append("the labels of the test images are hidden, so the test split is left out")
        del labels["test"], files["test"]
    class_names, numbers = _numbered(labels, features.get(label_at), f"{folder}: {label_at!r}")
    images = encoded_splits(
        {split: ArrowImages(part, image_at) for split, part in files.items()},
        {split: _names(part, image_at) for split, part in files.items()},
        channels,
        digest=_digest(found.of_split, folder),
    )
    splits = {
        split: Split(images[split], torch.tensor(numbers[split], dtype=torch.int64))
        for split in files
    }
    notes.append(f"images in column {image_at!r}, labels in {label_at!r}")
    return Source(
        "huggingface",
        class_names,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        notes=tuple(notes),
    ).checked()


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(folder: Path) -> _Files:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    file = folder / "dataset_dict.json"
    if not file.is_file():
        return _Files({"train": _arrow_files(folder)}, _features(folder))
    values = read_json(file)
    names = values.get("splits") if isinstance(values, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise VitrellisError(f"{file}: should have a list of names under 'splits'")
    of_split: dict[str, list[Path]] = {}
    others = []
    for name in names:
        split = SPLIT_WORDS.get(name.lower())
        if split is None:
            others.append(name)
        elif split in of_split:
            raise VitrellisError(f"{file}: several of its splits {', '.join(names)} are {split}")
        else:
            of_split[split] = _arrow_files(folder / path_below(folder, name, file))
    if not of_split:
        raise VitrellisError(f"{file}: none of its splits {', '.join(names)} is called train")
    train = next(name for name in names if name.lower() in SPLIT_WORDS)
    return _Files(_ordered(of_split), _features(folder / train), _left_out(others))


def _arrow_files(folder: Path) -> list[Path]:
    file = folder / "state.json"
    values = read_json(file)
    if not isinstance(values, dict):
        raise VitrellisError(f"{file}: should hold an object")
    if values.get("_indices_data_files") or values.get("_indices_files"):
        raise VitrellisError(
            f"{file}: an old version of datasets chose rows by a list of indices; load it with "
            "datasets, call flatten_indices(), and save it again"
        )
    entries = values.get("_data_files")
    names = [entry.get("filename") for entry in entries or () if isinstance(entry, dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise VitrellisError(f"{file}: should list Arrow files under '_data_files'")
    return [folder / path_below(folder, str(name), file) for name in names]


def _features(folder: Path) -> dict[str, Any]:
    file = folder / "dataset_info.json"
    if not file.is_file():
        return {}
    values = read_json(file)
    features = values.get("features") if isinstance(values, dict) else None
    return features if isinstance(features, dict) else {}


def _shards(folder: Path, config: str | None) -> _Files:
    """Parquet files by the splits that their names, or those of their folders, begin with."""
    by_config: dict[str, dict[str, list[Path]]] = {}
    others: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        place, word = inside.parent, _word(path.stem)
        if SPLIT_WORDS.get(word) is None and SPLIT_WORDS.get(place.name.lower()) is not None:
            place, word = place.parent, place.name.lower()
        name = place.as_posix()
        if SPLIT_WORDS.get(word) is None:
            others.setdefault(name, []).append(path.name)
        else:
            by_config.setdefault(name, {}).setdefault(SPLIT_WORDS[word], []).append(path)
    if not by_config:
        raise VitrellisError(f"{folder}: {_without_shards(folder)}. It should hold {_CONTENTS}")
    chosen = _configuration(by_config, config, folder)
    for part in by_config[chosen].values():
        _check_complete(part)
    return _Files(_ordered(by_config[chosen]), {}, _left_out(others.get(chosen, [])))


def _without_shards(folder: Path) -> str:
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if scripts:
        return (
            f"holds the script {scripts[0]} and no data; scripts are not run. Load it with "
            "datasets where you trust it, and save it by save_to_disk"
        )
    strange = next((path for path in sorted(folder.rglob("*.parquet"))), None)
    if strange is not None:
        return f"the name of {strange.name} does not begin with train, validation or test"
    return "holds none of these"


def _configuration(by_config: Mapping[str, object], config: str | None, folder: Path) -> str:
    if config is not None:
        if config not in by_config:
            raise unknown_name("configuration (data.args.config)", str(config), by_config)
        return config
    if len(by_config) > 1:
        raise UsageError(
            f"data.args.config: not given, and {folder} holds Parquet files in "
            f"{', '.join(by_config)}; name one of these folders"
        )
    return next(iter(by_config))


def _word(stem: str) -> str:
    return re.split(r"[-._\d]", stem.lower(), maxsplit=1)[0]


def _check_complete(part: Sequence[Path]) -> None:
    """Names that end with `-00000-of-00004` say how many files there are."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for path in part:
        found = re.match(r"(.*?)-(\d{5})-of-(\d{5})", path.name)
        if found is not None:
            numbers.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (name, count), present in numbers.items():
        missing = sorted(set(range(count)) - present)
        if missing:
            raise VitrellisError(
                f"{part[0].parent}: {name}-{missing[0]:05}-of-{count:05} is missing; "
                f"{len(missing)} of its {count} files are not there"
            )


def _ordered(of_split: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {split: of_split[split] for split in ("train", "val", "test") if split in of_split}


def _left_out(others: Sequence[str]) -> tuple[str, ...]:
    if not others:
        return ()
    return (f"left out, as neither train, validation nor test: {', '.join(others[:5])}",)


def _check_columns(files: Mapping[str, Sequence[ArrowFile]]) -> None:
    first = files["train"][0]
    for part in files.values():
        for file in part:
            if set(file.schema.names) != set(first.schema.names):
                raise VitrellisError(
                    f"{file.path}: has the columns {', '.join(file.schema.names)}, and "
                    f"{first.path} has {', '.join(first.schema.names)}"
                )


def _image_column(file: ArrowFile, features: Mapping[str, Any], given: str | None) -> str:
    columns: list[str] = file.schema.names
    if given is not None:
        if given not in columns:
            raise unknown_name("column (data.args.image_column)", str(given), columns)
        return given
    declared = [name for name in columns if _kind(features.get(name)) == "Image"]
    found = declared or [name for name in columns if _may_be_images(file.schema.field(name).type)]
    if len(found) != 1:
        what = f"{', '.join(found)} hold images" if found else "none holds encoded images"
        raise UsageError(
            f"data.args.image_column: not given, and of the columns of {file.path}, "
            f"{', '.join(columns)}, {what}"
        )
    return found[0]


def _may_be_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _may_be_images(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _label_column(
    file: ArrowFile, features: Mapping[str, Any], given: str | None, image_at: str
) -> str:
    columns = [name for name in file.schema.names if name != image_at]
    if given is not None:
        if given not in columns:
            raise unknown_name("column (data.args.label_column)", str(given), columns)
        return given
    declared = [name for name in columns if _kind(features.get(name)) == "ClassLabel"]
    found = declared or columns
    named = [name for name in found if name.lower() in ("label", "labels")]
    chosen = found if len(found) == 1 else named
    if len(chosen) != 1:
        raise UsageError(
            f"data.args.label_column: not given, and it is not clear which column of {file.path} "
            f"holds the labels: {', '.join(found) or 'there is none beside the images'}"
        )
    return chosen[0]


def _kind(feature: Any) -> str | None:
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind if isinstance(kind, str) else None


def _numbered(
    labels: Mapping[str, list[Any]], feature: Any, where: str
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The class names, and the class index of each image of each split."""
    values = {value for part in labels.values() for value in part}
    strange = next((v for v in values if not isinstance(v, int | str)), None)
    if strange is not None or not values:
        kind = type(strange).__name__ if values else "nothing"
        raise VitrellisError(f"{where}: holds {kind}; labels are whole numbers or words")
    names = feature.get("names") if _kind(feature) == "ClassLabel" else None
    if isinstance(names, list) and all(isinstance(value, int) for value in values):
        outside = [value for value in values if not 0 <= value < len(names)]
        if outside:
            raise VitrellisError(
                f"{where}: has label {min(outside)}; with {len(names)} class names labels are 0 to "
                f"{len(names) - 1}"
            )
        return tuple(map(str, names)), {split: list(part) for split, part in labels.items()}
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    number = {value: index for index, value in enumerate(ordered)}
    numbers = {split: [number[value] for value in part] for split, part in labels.items()}
    return tuple(map(str, ordered)), numbers


def _names(files: Sequence[ArrowFile], column: str) -> list[str]:
    """A name for each image: its file and row."""
    names = []
    for file in files:
        count = sum(1 for _ in file.places())
        names += [f"{file.path}: {column} of row {row}" for row in range(count)]
    return names


def _digest(of_split: Mapping[str, Sequence[Path]], folder: Path) -> str:
    return "\n".join(
        f"{split} {path.relative_to(folder).as_posix()} {digest_of_ends(path).hex()}"
        for split, part in of_split.items()
        for path in part
    )


def _is_huggingface(root: Path) -> bool:
    if not root.is_dir():
        return False
    is_hub = any(re.search(r"-of-\d+", path.name) for path in root.rglob("*.parquet"))
    return _is_saved(root) or is_hub or bool(metadata_files(root))


LAYOUTS = {"huggingface": load_huggingface}
RECOGNIZED_BY = {"huggingface": _is_huggingface}
