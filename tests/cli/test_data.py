"""`vitrellis data inspect` on a folder with every fault at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import run_apart, run_here
from vitrellis.data.sources import recognized
from vitrellis.errors import VitrellisError


def noise(seed: int, side: int = 100) -> Image.Image:
    """A smooth random picture: hashes of unrelated ones are far apart."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for kind, counts in {"cat": (12, 2), "dog": (2, 2)}.items():
        for split, count in zip(("train", "test"), counts, strict=True):
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                seed = 1000 * (kind == "dog") + 10 * number + (split == "test")
                noise(seed).save(root / split / kind / f"{number}.png")
    return root


def test_a_clean_folder_gets_a_command(photos: Path) -> None:
    out, _ = run_apart("data", "inspect", str(photos))
    assert "14 train, 4 test; 2 classes" in out
    assert "all 100 x 100" in out
    assert "cat       12     2  " + 24 * "\N{FULL BLOCK}" in out
    assert "alike" not in out
    assert f"vitrellis train photos data.root={photos} balance=true" in out
    assert "no validation split" in out


def test_everything_that_is_wrong_is_named(photos: Path) -> None:
    shutil.copy(photos / "train/cat/0.png", photos / "test/cat/9.png")
    shutil.copy(photos / "train/cat/1.png", photos / "train/dog/9.png")
    noise(20).resize((90, 90)).save(photos / "test/cat/8.png")  # train/cat/2.png, smaller
    values = json.loads(run_here("data", "inspect", str(photos), "--json").out)
    leaks = [group for group in values["same"] if group["crosses_splits"]]
    assert [image["name"][-11:] for image in leaks[0]["images"]] == ["n/cat/0.png", "t/cat/9.png"]
    torn = [group for group in values["same"] if group["has_several_labels"]]
    assert [image["label"] for image in torn[0]["images"]] == ["cat", "dog"]
    (near,) = values["alike"]
    assert {image["split"] for image in near["images"]} == {"train", "test"}
    assert any("decide on one label" in sentence for sentence in values["advice"])
    out, _ = run_here("data", "inspect", str(photos))
    assert "the same image in several splits: 1" in out
    assert "train/cat/1.png (train, cat) = " in out


def test_files_that_cannot_be_read_are_all_named(photos: Path, tmp_path: Path) -> None:
    (photos / "train/dog/bad.jpg").write_bytes(b"")
    (photos / "test/dog/worse.png").write_text("no image")
    page = tmp_path / "page.html"
    out, err = run_here("data", "inspect", str(photos), "--html", str(page), code=1)
    assert "files that cannot be read: 2" in out
    assert "bad.jpg: is empty" in out
    assert "worse.png: is not an image" in out
    assert "Train with" not in out
    assert err.startswith("error: ")
    assert "worse.png: is not an image" in page.read_text()


def test_damaged_files_do_not_hide_the_rest(photos: Path) -> None:
    for name in ("train/cat/3.png", "train/cat/7.png"):
        content = (photos / name).read_bytes()
        (photos / name).write_bytes(content[: len(content) // 2])
    shutil.copy(photos / "train/cat/0.png", photos / "test/cat/9.png")
    out, err = run_here("data", "inspect", str(photos), code=1)
    assert "14 train, 5 test; 2 classes" in out
    assert "files that cannot be read: 2" in out
    assert "the same image in several splits: 1" in out
    assert "or leave them out in training: data.on_bad_image=skip" in out
    assert err.startswith("error: 2 of 19 images cannot be read:\n")


def test_damaged_images_in_a_container_are_named(photos: Path, tmp_path: Path) -> None:
    run_here("data", "pack", str(photos), str(tmp_path / "shards"))
    shard = tmp_path / "shards/train-000000.tar"
    content = bytearray(shard.read_bytes())
    start = content.index(b"IDAT") + 100
    content[start : start + 200] = bytes(200)
    shard.write_bytes(content)
    out, _ = run_here("data", "inspect", str(tmp_path / "shards"), code=1)
    assert "14 train, 4 test; 2 classes" in out
    assert "files that cannot be read: 1" in out


def test_the_page_shows_pictures_and_escapes_names(photos: Path, tmp_path: Path) -> None:
    (photos / "train/cat").rename(photos / "train/<b>&cat")
    (photos / "test/cat").rename(photos / "test/<b>&cat")
    shutil.copy(photos / "train/dog/0.png", photos / "test/dog/9.png")
    page = tmp_path / "page.html"
    run_here("data", "inspect", str(photos), "--html", str(page))
    text = page.read_text()
    assert "&lt;b&gt;&amp;cat" in text
    assert "<b>" not in text
    assert text.count('src="data:image/jpeg;base64,') == 2


def test_words_that_are_wrong(photos: Path) -> None:
    assert "no such folder or file" in run_here("data", "inspect", "nowhere", code=1).err
    wrong = run_here("data", "inspect", str(photos), "--arg", "split", code=2).err
    assert "--arg split: should be KEY=VALUE" in wrong


def test_pack_and_verify(photos: Path, tmp_path: Path) -> None:
    for name, source in (("set.lmdb", "lmdb"), ("shards", "webdataset")):
        packed = tmp_path / name
        out = run_here("data", "pack", str(photos), str(packed)).out
        assert "18 images, " in out
        checked = json.loads(run_here("data", "verify", str(packed), "--json", "-q").out)
        assert checked == {"path": str(packed), "images": 18}
        assert f"vitrellis train photos data.source={source} data.root={packed}" in out
        assert (
            "all 18 images are as they were packed" in run_here("data", "verify", str(packed)).out
        )
        assert recognized(packed) == [source]
        values = json.loads(run_here("data", "inspect", str(packed), "--json").out)
        assert values["counts"] == {"train": [12, 2], "test": [2, 2]}
        assert "exists already" in run_here("data", "pack", str(photos), str(packed), code=2).err
    words = ["data", "pack", str(photos), str(tmp_path / "again.lmdb"), "--json", "-q"]
    told = json.loads(run_here(*words).out)
    assert (told["images"], told["kept"], told["source"]) == (18, 0, "lmdb")
    assert told["bytes"] > 0
    assert f"vitrellis {told['command'].partition(' ')[2]}" in told["command"]
    wrong = run_here("data", "verify", str(photos), code=1).err
    assert "is checked by `vitrellis data inspect" in wrong


@pytest.mark.parametrize(
    ("files", "layouts"),
    [
        (["cifar-100-python/meta", "cifar-100-python/train"], ["cifar100"]),
        (["data_batch_1"], ["cifar10"]),
        (["tiny-imagenet-200/wnids.txt"], ["tiny-imagenet"]),
        (["flowers-102/setid.mat"], ["flowers102"]),
        (["train.json", "test.json"], ["chaoyang"]),
        (["labels.csv", "images/a.png"], ["elpv"]),
        (["train2019.json"], ["inaturalist"]),
        (["ImageNet_LT_train.txt"], ["imagenet-lt"]),
        (["iNaturalist18_train.txt"], ["inaturalist-2018"]),
        (["sketch_train.txt", "real_train.txt"], ["domainnet"]),
        (["train-images-idx3-ubyte.gz"], ["fashion-mnist"]),
        (["pathmnist_64.npz"], ["medmnist"]),
        (["my.npz"], ["arrays"]),
        (["train_images.npy", "train_labels.npy"], ["arrays"]),
        (["labels.tsv"], ["table"]),
        (["train.txt", "labels.csv"], ["lists"]),
        (["a/1.png", "b/1.png"], ["folder"]),
    ],
)
def test_layouts_are_recognised(tmp_path: Path, files: list[str], layouts: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert recognized(tmp_path) == layouts


def test_nothing_is_recognised_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="no such folder or file"):
        recognized(tmp_path / "gone")
