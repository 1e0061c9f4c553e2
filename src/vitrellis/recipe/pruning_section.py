"""The recipe's section on training with token pruning."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vitrellis.settings import Index, PositiveFraction, Section

COMPILED_LEVELS = 4
"""The number of equal steps in which the rate falls with `training.compile`."""


class Pruning(Section):
    """Training with token pruning: some layers leave behind the patches that matter least.

    They are those that the class token attends to least. It is for plain ViTs and DeiTs with a
    class token, and for the models named `evit_*`. Source: EViT, Liang et al., ICLR 2022, arXiv
    2202.07800.
    """

    keep_rate: PositiveFraction = 0.7
    """The share of tokens that each of the layers keeps, of those that reach it, in the end."""
    from_epoch: Index = 0
    """The number of epochs with all tokens; then the share falls from 1 to `keep_rate`, as half a
    cosine wave, with every step (with `training.compile`, in 4 equal parts). Published: 10 of
    300."""
    until_epoch: Index = 0
    """The number of epochs after which it stays at `keep_rate`. Published: 110 of 300."""
    layers: Annotated[tuple[Index, ...], Field(min_length=1)] = (3, 6, 9)
    """The layers that leave tokens behind, counted from 0. These are for twelve layers."""
    fuse: bool = True
    """Whether the tokens that a layer leaves behind are added up to one more token, weighted by the
    attention to them; if not, they are dropped."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.until_epoch < self.from_epoch:
            raise ValueError(
                f"until_epoch {self.until_epoch} is before from_epoch {self.from_epoch}; the rate "
                "falls from from_epoch to until_epoch. Give both, or the same for a sudden change"
            )
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers are {list(self.layers)}; they should rise")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model, which is built with the rate of the end."""
        return {
            "keep_rate": self.keep_rate,
            "drop_layers": list(self.layers),
            "fuse_token": self.fuse,
        }

    def describe(self, levels: int | None) -> str:
        """The section in words; epochs are counted from 1.

        Args:
            levels: The number of equal parts in which the rate falls; None if it is smooth.
        """
        layers = ", ".join(map(str, self.layers))
        several = len(self.layers) > 1
        kept = f"layers {layers} keep" if several else f"layer {layers} keeps"
        kept += f" {self.keep_rate:g} of the tokens"
        left = "fuse the others" if self.fuse else "drop the others"
        if self.until_epoch == 0:
            return f"{kept} and {left}"
        if self.until_epoch == self.from_epoch:
            return f"{kept} and {left}, from epoch {self.from_epoch + 1} on"
        fall = "a cosine" if levels is None else f"a cosine in {levels} equal parts"
        return (
            f"{kept} and {left}; all until epoch {self.from_epoch}, then fewer by {fall} "
            f"until epoch {self.until_epoch}"
        )
