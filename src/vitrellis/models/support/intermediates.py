"""Which blocks `forward_intermediates` is asked for, in timm's convention."""

from __future__ import annotations

from collections.abc import Sequence


def chosen_indices(num_blocks: int, indices: int | Sequence[int] | None) -> set[int]:
    """Block indices from what timm's callers pass.

    Args:
        num_blocks: How many there are.
        indices: A list (negative counts from the end), a number for the last so many, or None
            for all.

    Raises:
        ValueError: If an index is out of range.
    """
    if indices is None:
        return set(range(num_blocks))
    if isinstance(indices, int):
        return set(range(num_blocks - indices, num_blocks))
    chosen = {index + num_blocks if index < 0 else index for index in indices}
    outside = [index for index in chosen if not 0 <= index < num_blocks]
    if outside:
        raise ValueError(
            f"block {outside[0]}: there are {num_blocks} blocks, 0 to {num_blocks - 1}"
        )
    return chosen
