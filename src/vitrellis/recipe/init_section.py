"""The section of a recipe on what training starts from, and the older keys that it replaces."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vitrellis.settings import Count, File, Section, Size

logger = logging.getLogger("vitrellis")


def _freeze_tag(value: object) -> str:
    if isinstance(value, str):
        return "(or a number of layers, or a list of names)"
    return "(list)" if isinstance(value, list | tuple) else "(number)"


class Init(Section):
    """Fine-tuning: the weights that training starts from, and those that stay as they are.

    Without it, training starts from random weights. A classifier for other classes starts anew, and
    position embeddings for images of another size are interpolated; both are said.
    """

    weights: File | None = None
    """The weights to start from: a run, a file, or a folder in the format of Hugging Face."""
    source: str | None = None
    """The published code that wrote the file, if its names are not timm's: one of those of
    `vitrellis import --source`."""
    pretrained: bool = False
    """Whether to start from timm's published weights of `model.name` (downloaded once), or from
    those that belong to the name of the Hub or of the folder."""
    weights_img_size: Size | None = None
    """The size in pixels of the images that the position embeddings in `weights`, or in an imported
    checkpoint, were made for: one number, or `[height, width]`. If not given, it is that in the
    `config.json` beside the file; without one, they were square."""
    weights_ema: bool = False
    """Whether to take the moving average of the weights that the file holds beside them."""
    freeze: (
        Annotated[
            Annotated[Literal["body"], Tag("(or a number of layers, or a list of names)")]
            | Annotated[Count, Tag("(number)")]
            | Annotated[
                Annotated[tuple[str, ...], Field(min_length=1)],
                Tag("(list)"),
            ],
            Discriminator(_freeze_tag),
        ]
        | None
    ) = None
    """The part of the model that stays as it is: `body` for all but the classifier, a number of
    layers from the input on (as timm groups them: the embedding is the first, and then each block),
    or a list of names of modules or parameters, such as `[patch_embed, blocks.0]`. Batch norms in
    it keep their statistics."""

    @model_validator(mode="after")
    def _check_one_start(self) -> Init:
        if self.pretrained and self.weights is not None:
            raise ValueError("weights and pretrained: give one of them, not both")
        needs_file = {"source": self.source, "weights_ema": self.weights_ema}
        for key, value in needs_file.items():
            if value and self.weights is None:
                raise ValueError(f"{key}: goes with weights, and none are given (init.weights)")
        return self


MOVED_KEYS = ("weights", "pretrained", "weights_img_size", "weights_ema")
"""Keys that were in `model`, and are in `init`."""


def with_moved_keys(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values of a recipe in which keys that were in `model` are in `init`.

    The recipes of earlier runs have them. A note is logged where such a key says something.

    Args:
        values: The content of a recipe file, or changes to one.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        return values
    moved = {key: model[key] for key in MOVED_KEYS if key in model}
    if not moved:
        return values
    for key, value in moved.items():
        if value:
            logger.warning("note: model.%s is now called init.%s", key, key)
    init = values.get("init")
    return {
        **values,
        "model": {key: value for key, value in model.items() if key not in MOVED_KEYS},
        "init": moved | dict(init if isinstance(init, Mapping) else {}),
    }
