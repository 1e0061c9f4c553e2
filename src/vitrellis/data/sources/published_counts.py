"""The numbers of images that published splits have, and what to say when a copy has others."""

from __future__ import annotations

from collections.abc import Mapping

from vitrellis.data.source import Split


def differing_counts(
    dataset: str, splits: Mapping[str, Split], published: Mapping[str, int]
) -> tuple[str, ...]:
    """A sentence for the user if a copy of a dataset is not the published one, else nothing.

    Args:
        dataset: The name of the dataset in the sentence.
        splits: The splits that were read, by name.
        published: The number of images of each published split.
    """
    found = {name: len(splits[name]) if name in splits else 0 for name in published}
    if found == dict(published):
        return ()
    return (
        f"{dataset}: this copy has {_listed(found)} images, and the published splits have "
        f"{_listed(published)}: figures do not compare with published ones",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
