"""Datasets of Hugging Face, compared with what its own library reads from the same files."""

from __future__ import annotations

import gc
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import Split, load_source, recognized
from vitrellis.errors import UsageError, VitrellisError

datasets = pytest.importorskip("datasets")

COUNTS = {"train": 6, "validation": 2, "test": 4}
OURS = {"train": "train", "validation": "val", "test": "test"}


def picture(seed: int, size: tuple[int, int] = (8, 9)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def theirs(features: dict[str, Any] | None = None, **columns: list[Any]) -> Any:
    """A `DatasetDict` of small random pictures, with further columns of as many values."""
    names = datasets.ClassLabel(names=["cat", "dog"])
    splits = {}
    for split, count in COUNTS.items():
        values = {
            "image": [picture(100 * count + n) for n in range(count)],
            "label": [n % 2 for n in range(count)],
        }
        values |= {key: column[:count] for key, column in columns.items()}
        kinds = {"image": datasets.Image(), "label": names} | (features or {})
        splits[split] = datasets.Dataset.from_dict(values, features=datasets.Features(kinds))
    return datasets.DatasetDict(splits)


def to_hub(sets: Any, folder: Path, **options: Any) -> Path:
    for split, part in sets.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", **options)
    return folder


def assert_same(split: Split, part: Any, label: str = "label") -> None:
    assert split.labels.tolist() == part[label]
    for index, row in enumerate(part):
        expected = torch.from_numpy(np.array(row["image"])).permute(2, 0, 1)
        assert torch.equal(split.images[index], expected)


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    theirs().save_to_disk(tmp_path / "set", num_shards={"train": 2, "validation": 1, "test": 1})
    read = datasets.load_from_disk(tmp_path / "set")
    assert recognized(tmp_path / "set") == ["huggingface"]
    source = load_source("huggingface", tmp_path / "set")
    assert source.class_names == tuple(read["train"].features["label"].names)
    assert (source.channels, source.train.images.size) == (3, (8, 9))
    for name, split in OURS.items():
        assert_same(source.splits[split], read[name])


def test_one_saved_split_is_trained_on(tmp_path: Path) -> None:
    train = theirs()["train"]
    train.select([5, 2, 3]).save_to_disk(tmp_path / "set")
    source = load_source("huggingface", tmp_path / "set")
    assert list(source.splits) == ["train"]
    assert_same(source.train, train.select([5, 2, 3]))


def test_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    sets = theirs()
    to_hub(sets, tmp_path / "set", batch_size=2)  # several row groups
    read = datasets.load_dataset(str(tmp_path / "set"), cache_dir=tmp_path / "cache")
    assert recognized(tmp_path / "set") == ["huggingface"]
    source = load_source("huggingface", tmp_path / "set")
    assert source.class_names == ("cat", "dog")
    for name, split in OURS.items():
        assert_same(source.splits[split], read[name])
    order = [3, 0, 5, 1]  # in any order, and in another process
    images = pickle.loads(pickle.dumps(source.train.images))
    for index in order:
        assert torch.equal(images[index], source.train.images[index])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # theirs leave open
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the table
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_images_with_metadata(tmp_path: Path, form: str) -> None:
    rows = {"train": [("b.png", "dog"), ("a/c.png", "cat"), ("a.png", "dog")], "test": []}
    rows["test"] = [("d.png", "cat")]
    for number, (split, part) in enumerate(rows.items()):
        for place, (name, _) in enumerate(part):
            (tmp_path / "set" / split / name).parent.mkdir(parents=True, exist_ok=True)
            picture(10 * number + place).save(tmp_path / "set" / split / name)
        lines = [f"{name},{breed}" for name, breed in part]
        text = "\n".join(["file_name,breed", *lines])
        if form == "jsonl":
            text = "\n".join(json.dumps({"file_name": n, "breed": b}) for n, b in part)
        (tmp_path / "set" / split / f"metadata.{form}").write_text(text + "\n")
    read = datasets.load_dataset("imagefolder", data_dir=tmp_path / "set", cache_dir=tmp_path / "c")
    gc.collect()  # here, where the warning is ignored, and not in a later test
    assert recognized(tmp_path / "set") == ["huggingface"]
    with pytest.raises(UsageError, match=r"label_column: not given.*columns are file_name, breed"):
        load_source("huggingface", tmp_path / "set")
    source = load_source("huggingface", tmp_path / "set", args={"label_column": "breed"})
    assert source.class_names == ("cat", "dog")
    for split in ("train", "test"):
        # theirs are in the order of the file system, ours in that of the table
        images, labels = source.splits[split].images, source.splits[split].labels
        ours = {images[n].numpy().tobytes(): int(labels[n]) for n in range(len(images))}
        for row in read[split]:
            pixels = np.array(row["image"]).transpose(2, 0, 1).tobytes()
            assert source.class_names[ours.pop(pixels)] == row["breed"]
        assert not ours


def test_one_table_of_metadata_for_all_splits(tmp_path: Path) -> None:
    names = ("train/1.png", "train/2.png", "validation/3.png", "4.png")
    for number, name in enumerate(names, start=1):
        write_image(tmp_path / name, 50 * number)
    lines = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    source = load_source("huggingface", tmp_path)
    assert {name: shades(split) for name, split in source.splits.items()} == {
        "train": [50, 100, 200],
        "val": [150],
    }
    (tmp_path / "metadata.csv").write_text("file_name,label\n../x.png,1\ntrain/1.png,0\n")
    with pytest.raises(VitrellisError, match="outside"):
        load_source("huggingface", tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\n4.png,1\n4.png,0\n")
    with pytest.raises(VitrellisError, match=r"names .*4\.png twice"):
        load_source("huggingface", tmp_path)


def test_columns_that_have_to_be_named(tmp_path: Path) -> None:
    more = {"coarse": datasets.ClassLabel(names=["x", "y", "z"]), "other": datasets.Image()}
    pictures = [picture(n) for n in range(6)]
    theirs(more, coarse=[2, 0, 1, 2, 0, 1], other=pictures).save_to_disk(tmp_path / "set")
    with pytest.raises(UsageError, match=r"image_column: not given, .* image, other hold images"):
        load_source("huggingface", tmp_path / "set")
    named = {"image_column": "other", "label_column": "coarse"}
    source = load_source("huggingface", tmp_path / "set", args=named)
    assert source.class_names == ("x", "y", "z")
    assert source.train.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert source.train.images[1].permute(1, 2, 0).tolist() == np.array(pictures[1]).tolist()
    by_default = load_source("huggingface", tmp_path / "set", args={"image_column": "other"})
    assert by_default.class_names == ("cat", "dog")  # of several, the one called label
    with pytest.raises(UsageError, match="Did you mean 'coarse'"):
        load_source("huggingface", tmp_path / "set", args=named | {"label_column": "coarze"})


def test_labels_without_names_and_hidden_ones(tmp_path: Path) -> None:
    def png(seed: int) -> bytes:
        buffer = io.BytesIO()
        picture(seed).save(buffer, "PNG")
        return buffer.getvalue()

    (tmp_path / "data").mkdir()
    for split, labels in {"train": [30, 4, 30, 4], "test": [-1, -1]}.items():
        table = {"jpg": [png(n) for n in range(len(labels))], "label": labels}
        file = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.table(table), file)
    source = load_source("huggingface", tmp_path)
    assert source.class_names == ("4", "30")
    assert source.train.labels.tolist() == [1, 0, 1, 0]
    assert source.test is None
    assert any("labels of the test images are hidden" in note for note in source.notes)


def test_configurations_and_missing_shards(tmp_path: Path) -> None:
    sets = theirs()
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        sets["train"].to_parquet(tmp_path / name / "train-00000-of-00002.parquet")
        sets["test"].to_parquet(tmp_path / name / "train-00001-of-00002.parquet")
    with pytest.raises(UsageError, match=r"config: not given, .* in large, small"):
        load_source("huggingface", tmp_path)
    source = load_source("huggingface", tmp_path, args={"config": "small"})
    assert len(source.train) == 10
    (tmp_path / "small/train-00000-of-00002.parquet").unlink()
    with pytest.raises(VitrellisError, match=r"train-00000-of-00002 is missing; 1 of its 2 files"):
        load_source("huggingface", tmp_path, args={"config": "small"})


def test_scripts_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(VitrellisError, match=r"holds the script set\.py and no data"):
        load_source("huggingface", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_damaged(tmp_path: Path) -> None:
    theirs().save_to_disk(tmp_path / "set")
    file = tmp_path / "set/train/data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for damaged in (whole[:300], whole[: len(whole) // 2], b"no arrow" * 100, b""):
        file.write_bytes(damaged)
        with pytest.raises(VitrellisError, match=r"data-00000-of-00001\.arrow: is no Arrow file"):
            load_source("huggingface", tmp_path / "set")
    file.write_bytes(whole)
    state = tmp_path / "set/train/state.json"
    state.write_text(state.read_text().replace("data-00000", "../../data-00000"))
    with pytest.raises(VitrellisError, match="outside"):
        load_source("huggingface", tmp_path / "set")
    hub = to_hub(theirs(), tmp_path / "hub")
    file = hub / "data/test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(VitrellisError, match="is no Parquet file, or damaged"):
        load_source("huggingface", hub)


def test_images_that_only_name_a_file(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"image": [{"bytes": None, "path": "/home/x/1.png"}] * 2, "label": [0, 1]},
        schema=pyarrow.schema(
            {
                "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
                "label": pyarrow.int64(),
            }
        ),
    )
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(VitrellisError, match=r"only names the file '/home/x/1\.png'"):
        load_source("huggingface", tmp_path)
