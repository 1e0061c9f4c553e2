"""How many images the batches of an epoch have."""

from __future__ import annotations


def batch_sizes(
    count: int, batch_size: int, world_size: int, *, drop_last: bool, selected_round: int
) -> tuple[int, int, int]:
    """The batches of an epoch.

    Args:
        count: The images that are shown in an epoch.
        batch_size: Images in a batch of all processes together. A smaller set is one batch.
        world_size: The number of processes.
        drop_last: Whether to leave out a last batch that is not full. One that has not an image for
            every process is left out anyway.
        selected_round: Images at an epoch's end that do not fill a multiple of this number are left
            out, unless there are no others.

    Returns:
        The images that are shown, the images of a batch, and those of a smaller last one; 0 if
        there is none.
    """
    selected = count - count % selected_round or count
    whole = min(batch_size, count)
    rest = selected % whole
    return selected, whole, 0 if drop_last or rest < world_size else rest
