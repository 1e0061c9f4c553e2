"""Groups of equal and similar images, against brute force over all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from vitrellis.data.duplicates import Member, same
from vitrellis.data.inspection.lookalikes import NEAR_BITS, alike


def members(count: int) -> list[Member]:
    return [Member("train" if n % 2 else "test", n, f"{n}.png", n % 3) for n in range(count)]


def test_same_digests_make_groups() -> None:
    groups = same(members(6), ["a", "b", "a", "c", "b", "a"])
    assert [[m.index for m in group.members] for group in groups] == [[0, 2, 5], [1, 4]]
    assert groups[0].crosses_splits
    assert groups[0].has_several_labels
    assert [group.has_several_labels for group in same(members(4), ["a", "b", "c", "a"])] == [False]


def test_pairs_that_differ_in_few_bits_are_all_found() -> None:
    rng = np.random.default_rng(0)
    looks = [int(value) for value in rng.integers(0, 2**63, 300, dtype=np.uint64)]
    for n in range(0, 100, 2):  # near copies, some of which differ in one bit too many
        bits = rng.choice(64, size=rng.integers(0, NEAR_BITS + 2), replace=False)
        looks[n + 1] = looks[n] ^ sum(1 << int(bit) for bit in bits)
    near = {
        (i, j)
        for i, j in combinations(range(len(looks)), 2)
        if (looks[i] ^ looks[j]).bit_count() <= NEAR_BITS
    }
    assert 20 < len(near) < 50
    groups = alike(members(len(looks)), looks, range(len(looks)))
    found = {(a.index, b.index) for g in groups for a, b in combinations(g.members, 2)}
    assert found == near  # every group is a pair here


def test_a_chain_is_one_group_and_equal_images_count_once() -> None:
    looks = [0b0, 0b1111, 0b11111111, 0b0, 0xFFFF << 48]
    groups = alike(members(5), looks, ["a", "b", "c", "a", "d"])
    assert [[m.index for m in group.members] for group in groups] == [[0, 1, 2]]


def test_a_crowd_of_flat_images_takes_no_quadratic_time() -> None:
    count = 20_000  # all pairs would be 200 million
    groups = alike(members(count), [7] * count, range(count))
    assert [len(group.members) for group in groups] == [count]
