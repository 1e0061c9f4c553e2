"""Images that look alike by their perceptual hashes, in one split or in several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from vitrellis.data.duplicates import Group, Member

NEAR_BITS = 4
"""The greatest number of the 64 bits of two perceptual hashes that differ in images that look
alike; unrelated photographs differ in 32 on average."""

_BITS = 64
_BANDS = NEAR_BITS + 1  # two hashes that differ in 4 bits agree in at least one of 5 bands
_CROWD = 200  # in a band with more images the same, flat ones mostly, only neighbours are compared


def alike(
    members: Sequence[Member], looks: Sequence[int], digests: Sequence[Hashable]
) -> list[Group]:
    """Groups of images that look alike and are not the same: each is near another of its group.

    Args:
        members: The images.
        looks: The perceptual hash of each, 64 bits.
        digests: A digest of each; of images with the same digest only the first is compared.
    """
    first_of: dict[Hashable, int] = {}
    for number, digest in enumerate(digests):
        first_of.setdefault(digest, number)
    different = list(first_of.values())
    parent = list(range(len(different)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in _near_pairs(np.array([looks[n] for n in different], dtype=np.uint64)):
        parent[root(one)] = root(other)
    groups: dict[int, list[Member]] = defaultdict(list)
    for number, index in enumerate(different):
        groups[root(number)].append(members[index])
    return [Group(tuple(group)) for group in groups.values() if len(group) > 1]


def _near_pairs(looks: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Iterator[tuple[int, int]]:
    """Pairs of hashes `(N,)` that differ in at most `NEAR_BITS` bits; some come more than once."""
    edges = np.linspace(0, _BITS, _BANDS + 1).astype(int)
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64((1 << (high - low)) - 1)
        bands: dict[int, list[int]] = defaultdict(list)
        for number, band in enumerate(((looks >> np.uint64(low)) & mask).tolist()):
            bands[band].append(number)
        for crowd in bands.values():
            crowd.sort(key=lambda number: int(looks[number]))
            if len(crowd) > _CROWD:
                pairs: Iterator[tuple[int, int]] = iter(pairwise(crowd))
            else:
                pairs = combinations(crowd, 2)
            for one, other in pairs:
                if (int(looks[one]) ^ int(looks[other])).bit_count() <= NEAR_BITS:
                    yield one, other
