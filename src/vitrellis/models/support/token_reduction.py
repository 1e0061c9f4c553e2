"""What all models share that compute with fewer tokens in some of their layers.

`EViT` leaves tokens behind, `ToMe` merges them, and `PrunedDHVT` leaves them behind where
convolutions need the grid. All have a keep rate for each layer, which can be changed at any time,
and say for each patch of an image which token stands for it after each layer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.taps import chosen_indices

KeepRate = float | Sequence[float]
"""The share of tokens that is kept: one number for layers that shrink, or one for each layer."""

GONE = -1
"""The token of a patch that was dropped, or fused with others that were left behind."""


class LayerTokens(NamedTuple):
    """The tokens after a layer, and the patches that they stand for."""

    tokens: Tensor
    """`(B, P + n, D)`: prefix tokens, then n others, in any order."""
    token_of_patch: Tensor
    """`(B, H * W)`: for each patch the number of its token, 0 to n - 1, or `GONE`."""


class TokenReduction(nn.Module):
    """A transformer with a class token, some layers of which let fewer tokens go on.

    A subclass says how it computes its layers (`reduce`); it is a subclass of a model, too, and its
    constructor or `set_pruning` sets the attributes.
    """

    smallest_rate: ClassVar[float] = 0.0
    """A keep rate has to be larger than this, or equal to it if it is above 0."""

    blocks: Any
    norm: nn.Module
    forward_head: Any
    num_prefix_tokens: int
    keep_rate: tuple[float, ...]
    """The share of tokens that each layer keeps, of those that reach it."""
    drop_layers: tuple[int, ...]
    """The layers that shrink, 0-based."""
    fuse_token: bool
    """Whether what is left behind is summed up in one more token."""

    @abstractmethod
    def reduce(
        self, x: Tensor, rates: Sequence[float], numbers: set[int]
    ) -> tuple[Tensor, list[LayerTokens], tuple[int, int]]:
        """Runs all layers.

        Args:
            x: Images `(B, in_chans, H, W)`.
            rates: The keep rate of each layer.
            numbers: The layers whose outputs are returned.

        Returns:
            The normalised tokens that are left, prefix tokens first; the outputs of these layers in
            order; and the number of patches down and across.
        """

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.blocks)

    def set_pruning(
        self, keep_rate: KeepRate, drop_layers: Sequence[int], fuse_token: bool
    ) -> None:
        """Changes how many tokens go on, and where.

        Args:
            keep_rate: As `set_keep_rate` takes it.
            drop_layers: The layers that shrink if it is one number, 0-based.
            fuse_token: Sum up what is left behind in one more token.

        Raises:
            ValueError: If `set_keep_rate` refuses the rate, or there is no such layer.
        """
        self.drop_layers = tuple(drop_layers)
        self.fuse_token = fuse_token
        self.set_keep_rate(keep_rate)

    def set_keep_rate(self, keep_rate: KeepRate) -> None:
        """Changes the share of tokens that is kept from now on.

        Args:
            keep_rate: One number, for the layers that shrink, or one for each layer.

        Raises:
            ValueError: If a rate is not above 0 and at most 1, or there are not as many as layers.
        """
        self.keep_rate = self.rates(keep_rate)

    def rates(self, keep_rate: KeepRate) -> tuple[float, ...]:
        """One keep rate for each layer; argument and errors are those of `set_keep_rate`."""
        if isinstance(keep_rate, int | float):
            for layer in self.drop_layers:
                if not 0 <= layer < self.depth:
                    raise ValueError(
                        f"drop_layers: there is no layer {layer}, only 0 to {self.depth - 1} "
                        "(in a recipe: pruning.layers)"
                    )
            layers = range(self.depth)
            rates = [keep_rate if layer in self.drop_layers else 1.0 for layer in layers]
        else:
            rates = [float(rate) for rate in keep_rate]
            if len(rates) != self.depth:
                raise ValueError(f"keep_rate: {len(rates)} rates for {self.depth} layers")
        for rate in rates:
            if not 0 < rate <= 1:
                raise ValueError(f"keep_rate: {rate} is not above 0 and at most 1")
            if rate < self.smallest_rate:
                raise ValueError(
                    f"keep_rate: {rate} is below {self.smallest_rate}: a layer that merges tokens "
                    "in pairs keeps at least half of them. Let more layers merge"
                )
        return tuple(rates)

    def pruning_arguments(self) -> dict[str, Any]:
        """The arguments of `create_model` for a model that prunes as this one does now."""
        rates = list(enumerate(self.keep_rate))
        at_layers = {rate for layer, rate in rates if layer in self.drop_layers}
        elsewhere = {rate for layer, rate in rates if layer not in self.drop_layers}
        is_one_rate = len(at_layers) == 1 and elsewhere <= {1.0}
        return {
            "keep_rate": at_layers.pop() if is_one_rate else list(self.keep_rate),
            "drop_layers": list(self.drop_layers),
            "fuse_token": self.fuse_token,
        }

    def token_of_patch(self, x: Tensor) -> list[Tensor]:
        """Which token stands for each patch after each layer.

        Args:
            x: `(B, in_chans, H, W)`.

        Returns:
            For each layer `(B, h * w)`, row by row over the grid of patches: the number of the
            patch's token among those that are left, or -1 (`GONE`) for a patch that was dropped or
            fused. Patches that were merged have the same number.
        """
        layers = set(range(self.depth))
        return [layer.token_of_patch for layer in self.reduce(x, self.keep_rate, layers)[1]]

    def forward_features(self, x: Tensor, keep_rate: KeepRate | None = None) -> Tensor:
        """`(B, in_chans, H, W)` to the normalised tokens that are left, prefix tokens first.

        Args:
            x: Images.
            keep_rate: In place of the model's own, as `set_keep_rate` takes it.
        """
        rates = self.keep_rate if keep_rate is None else self.rates(keep_rate)
        return self.reduce(x, rates, set())[0]

    def forward(self, x: Tensor, keep_rate: KeepRate | None = None) -> Any:
        """`(B, in_chans, H, W)` to `(B, num_classes)`, or to both heads' in distilled training."""
        return self.forward_head(self.forward_features(x, keep_rate))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of layers, every token back in its place; zeros where none is left.

        A token that was merged is in the places of all its patches.

        Args:
            x: `(B, in_chans, H, W)`.
            indices: The layers, 0-based; a number stands for the last so many, None for all.
            norm: Apply the final norm to them.
            stop_early: Without effect.
            output_fmt: "NCHW" for `(B, D, H, W)`, "NLC" for `(B, H * W, D)`.
            intermediates_only: Return the maps alone.

        Returns:
            The normalised tokens that are left, and the maps in ascending order of index.
        """
        del stop_early
        assert output_fmt in ("NCHW", "NLC"), f"unknown format {output_fmt!r}"
        numbers = chosen_indices(self.depth, indices)
        features, layers, grid = self.reduce(x, self.keep_rate, numbers)
        maps = []
        for tokens, token_of_patch in layers:
            others = (self.norm(tokens) if norm else tokens)[:, self.num_prefix_tokens :]
            patches = spread(others, token_of_patch)
            maps.append(patches.mT.unflatten(-1, grid) if output_fmt == "NCHW" else patches)
        return maps if intermediates_only else (features, maps)


def spread(tokens: Tensor, token_of_patch: Tensor) -> Tensor:
    """Tokens in their places: `(B, H * W, D)`, zeros where none is left.

    Args:
        tokens: `(B, n, D)`, without prefix tokens.
        token_of_patch: `(B, H * W)`, as `LayerTokens` has it.
    """
    nothing = tokens.shape[1]
    padded = F.pad(tokens, (0, 0, 0, 1))  # (B, n + 1, D), zeros at the end
    places = torch.where(token_of_patch == GONE, nothing, token_of_patch)
    return padded.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def num_kept(rate: float, num_tokens: int) -> int:
    """`ceil(rate * num_tokens)`, not exposed to rounding: 0.55 of 100 is 55."""
    return math.ceil(round(rate * num_tokens, 9))
