from __future__ import annotations

import pickle

import pytest

from vitrellis.data.sources.stored_paths import StoredPaths

PATHS = ("a/1.png", "", "Größe/日本.jpg", "not utf-8 \udcff.png", "b/2.png")


def test_paths_come_back_in_their_order() -> None:
    stored = StoredPaths(PATHS)
    assert len(stored) == len(PATHS)
    assert tuple(stored) == PATHS
    assert [stored[index] for index in range(-5, 5)] == [*PATHS, *PATHS]
    assert stored[1:4] == list(PATHS[1:4])
    assert stored[::-2] == list(PATHS[::-2])
    assert stored.index("b/2.png") == 4
    assert "b/3.png" not in stored


@pytest.mark.parametrize("index", [5, -6])
def test_there_are_no_further_paths(index: int) -> None:
    with pytest.raises(IndexError):
        StoredPaths(PATHS)[index]


def test_no_paths() -> None:
    assert list(StoredPaths(())) == []


def test_equal_paths_are_equal() -> None:
    stored = StoredPaths(PATHS)
    assert stored == StoredPaths(list(PATHS))
    assert hash(stored) == hash(StoredPaths(list(PATHS)))
    assert stored != StoredPaths(("a/1.png", "", "Größe", "/日本.jpg", *PATHS[3:]))
    assert stored != PATHS
    assert pickle.loads(pickle.dumps(stored)) == stored


def test_a_process_gets_two_arrays_rather_than_an_object_for_each() -> None:
    many = StoredPaths(f"class {number % 10}/image {number:06d}.jpg" for number in range(10_000))
    assert len(pickle.dumps(many)) < 10_000 * (len(many[0]) + 8) + 1_000
