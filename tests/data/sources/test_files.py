from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from vitrellis.data.sources import ImageFiles, list_images
from vitrellis.data.sources.files import channels_of, inspect_files, visible
from vitrellis.errors import VitrellisError


def save(path: Path, size: tuple[int, int] = (4, 3), colour: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def collect(root: Path) -> ImageFiles:
    paths = list_images(root).images
    facts = inspect_files(paths)
    return ImageFiles.of(root, paths, facts, channels_of(paths, facts))


def test_folders_are_walked_and_clutter_is_not_seen(tmp_path: Path) -> None:
    wanted = [save(tmp_path / name) for name in ("B.PNG", "a.jpg", "deep/er/c.gif", "deep/b.webp")]
    for name in (".hidden.png", ".git/x.png", "__MACOSX/a.png", "deep/@eaDir/c.png"):
        save(tmp_path / name)
    for name in ("Thumbs.db", ".DS_Store", "deep/desktop.ini", "notes.txt", "deep/boxes.txt"):
        (tmp_path / name).touch()
    listing = list_images(tmp_path)
    assert listing.images == tuple(sorted(wanted))
    assert listing.others == (tmp_path / "deep/boxes.txt", tmp_path / "notes.txt")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "root").images == (tmp_path / "root/link/a.png",)
    (tmp_path / "root/up").symlink_to(tmp_path / "root")
    with pytest.raises(VitrellisError, match=r"root/up: is a link to .* contains it"):
        list_images(tmp_path / "root")


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="gone: cannot be read: No such file"):
        visible(tmp_path / "gone")


def test_sizes_count_only_if_they_are_the_same(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    assert collect(tmp_path).size == (3, 4)
    save(tmp_path / "c.png", size=(5, 3))
    assert collect(tmp_path).size is None


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert collect(tmp_path).channels == 1
    save(tmp_path / "b.png", mode="RGB")
    images = collect(tmp_path)
    assert [images.channels, *(tuple(images[i].shape) for i in range(2))] == [
        3,
        (3, 3, 4),
        (3, 3, 4),
    ]


def test_images_are_named_by_path_and_travel_to_other_processes(tmp_path: Path) -> None:
    path = save(tmp_path / "deep/a.png", colour=7)
    images: ImageFiles = pickle.loads(pickle.dumps(collect(tmp_path)))
    assert images.name(0) == str(path)
    assert set(images[0].flatten().tolist()) == {7}


def test_bad_files_are_noted_by_their_numbers(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    bad = [tmp_path / name for name in ("a.png", "c.png")]
    for path in bad:
        path.write_text("no image")
    images = collect(tmp_path)
    assert list(images.bad) == [0, 2]
    assert images.bad[2].startswith(f"{tmp_path / 'c.png'}: is not an image")
    assert (images.size, images.channels) == ((3, 4), 1)
    with pytest.raises(VitrellisError, match=r"a\.png: is not an image.* None of the 2 files"):
        inspect_files(bad)


def test_the_fingerprint_follows_contents_and_names_but_not_dates(tmp_path: Path) -> None:
    path = save(tmp_path / "one/a.png", colour=1)
    first = collect(tmp_path).fingerprint()
    os.utime(path, (1, 1))
    assert collect(tmp_path).fingerprint() == first
    save(path, colour=2)
    second = collect(tmp_path).fingerprint()
    path.rename(tmp_path / "one/b.png")
    third = collect(tmp_path).fingerprint()
    assert len({first, second, third}) == 3
    (tmp_path / "one").rename(tmp_path / "two")
    assert collect(tmp_path / "two").fingerprint() != third


def test_both_ends_of_a_long_file_count(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bmp", size=(400, 400))
    prints = set()
    for position in (path.stat().st_size - 1, 2000):
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        prints.add(collect(tmp_path).fingerprint())
    assert len(prints) == 2


def test_an_image_that_changes_its_size_during_a_run_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    images = collect(tmp_path)
    save(tmp_path / "a.png", size=(9, 9))
    with pytest.raises(VitrellisError, match=r"a\.png: is \(9, 9\) pixels now and .* \(3, 4\)"):
        images[0]


def test_files_that_are_not_opened_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image, which shows later")
    save(tmp_path / "b.png", mode="RGB")
    images = ImageFiles.unopened(tmp_path, ["a.png", "b.png"], 3, named_in=tmp_path / "list.txt")
    assert len(images) == 2
    assert images[1].shape == (3, 3, 4)
    with pytest.raises(VitrellisError, match=r"a\.png: is not an image"):
        images[0]
    names = ["c.png", "a.png", "d.png"]
    partly = ImageFiles.unopened(tmp_path, names, 3, named_in=tmp_path / "list.txt")
    assert partly.bad == {n: f"{tmp_path / names[n]}: no such file" for n in (0, 2)}
    with pytest.raises(VitrellisError, match=r"c\.png: no such file\. All 2 files are missing"):
        ImageFiles.unopened(tmp_path, ["c.png", "d.png"], 3, named_in=tmp_path / "list.txt")


def test_links_to_themselves_and_endless_names_are_bad(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    names = ["a.png", "b.png", 300 * "c"]
    images = ImageFiles.unopened(tmp_path, names, 3, named_in=tmp_path / "list.txt")
    assert list(images.bad) == [1, 2]


def test_their_fingerprint_follows_names_and_lengths(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    first = ImageFiles.unopened(
        tmp_path, ["a.png"], 3, named_in=tmp_path / "list.txt"
    ).fingerprint()
    save(tmp_path / "a.png", size=(40, 30))
    second = ImageFiles.unopened(
        tmp_path, ["a.png"], 3, named_in=tmp_path / "list.txt"
    ).fingerprint()
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert (
        len(
            {
                first,
                second,
                ImageFiles.unopened(
                    tmp_path, ["b.png"], 3, named_in=tmp_path / "list.txt"
                ).fingerprint(),
            }
        )
        == 3
    )


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "array.npy").symlink_to(pipe)
    for path in (pipe, tmp_path / "array.npy"):
        with pytest.raises(VitrellisError, match=f"{path.name}: is a pipe or a device"):
            inspect_files([path])
