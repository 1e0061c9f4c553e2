"""The images that a recipe describes, with the splits of its run."""

from __future__ import annotations

from vitrellis.data.as_channels import with_channels
from vitrellis.data.bad_images import (
    Sharing,
    naming_all_bad_images,
    refuse_bad_images,
    without_bad_images,
)
from vitrellis.data.canvas import ProgressCallback
from vitrellis.data.long_tail import LongTail
from vitrellis.data.source import CheckedImages, Source
from vitrellis.data.sources import load_source
from vitrellis.data.splits import prepare, with_fold
from vitrellis.data.value_range import with_value_range
from vitrellis.recipe import Recipe


def build_source(
    recipe: Recipe,
    source: Source | None = None,
    *,
    known: CheckedImages | None = None,
    progress: ProgressCallback | None = None,
    sharing: Sharing = Sharing(),  # noqa: B008  (it is immutable)
) -> Source:
    """The recipe's images with their splits.

    Args:
        recipe: The recipe, whose `data` section and seed are read.
        source: Images from Python, in place of those that `data.source` names.
        known: An earlier check of the same images for those that cannot be read.
        progress: Called as images are read to find those.
        sharing: The processes of the run, which share that reading.
    """
    data = recipe.data
    loaded = source
    skips = data.on_bad_image == "skip"
    if loaded is None:
        loaded = load_source(
            data.source,
            data.root,
            channels=recipe.input.channels,
            args=data.args,
            keep_bad=True,
        )
    else:
        loaded = with_channels(loaded, recipe.input.channels)
    if skips:
        loaded = without_bad_images(
            loaded,
            greatest_fraction=data.max_bad_fraction,
            known=known,
            progress=progress,
            sharing=sharing,
        )
    else:
        refuse_bad_images(loaded, progress)
    with naming_all_bad_images(loaded):
        loaded = with_value_range(loaded, data.value_range)
    seed = recipe.seed if data.seed is None else data.seed
    if data.folds is not None and data.fold is not None:
        loaded = with_fold(loaded, folds=data.folds, fold=data.fold, seed=seed)
    tail = data.long_tail
    return prepare(
        loaded,
        train_size=data.train_size,
        val_fraction=data.val_fraction,
        seed=seed,
        long_tail=None if tail is None else LongTail(**tail.model_dump()),
    )
