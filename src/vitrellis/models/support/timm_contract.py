"""timm's conventions for a classifier, so that a model's file holds only what is special about it.

A model says how it computes the outputs of its blocks (`block_outputs`). These classes give it
`forward`, `forward_intermediates`, a classifier that can be replaced, and checkpointing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrellis.models.support.taps import chosen_indices

Grid = tuple[int, int]
"""The number of tokens down and across."""


class TimmClassifier(nn.Module):
    """An image classifier with timm's attributes.

    Args:
        num_classes: The number of classes; 0 for no classifier.
        in_chans: The number of image channels.
        num_features: D, the number of channels that the classifier takes.
    """

    norm: nn.Module

    def __init__(self, num_classes: int, in_chans: int, num_features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []

    @abstractmethod
    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """The output of each block in turn, and its grid.

        Args:
            x: `(B, in_chans, H, W)`.
        """

    @abstractmethod
    def feature_map(self, output: Tensor, grid: Grid) -> Tensor:
        """The output of a block as a map `(B, D, H, W)`, for the grid `(H, W)`."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of blocks, counted over all stages, without class and distillation tokens.

        Args:
            x: `(B, in_chans, H, W)`.
            indices: The blocks, 0-based; a number stands for the last so many, None for all.
            norm: Apply the final norm to them. It is refused where the blocks differ in width.
            stop_early: Do not compute what comes after the last index.
            output_fmt: "NCHW" for `(B, D, H, W)`, "NLC" for `(B, H * W, D)`.
            intermediates_only: Return the maps alone.

        Returns:
            The normalised tokens and the maps, in ascending order of index.
        """
        assert output_fmt in ("NCHW", "NLC"), f"unknown format {output_fmt!r}"
        same_width = all(level["num_chs"] == self.num_features for level in self.feature_info)
        assert not norm or same_width, "the final norm fits the last stage only"
        numbers = chosen_indices(len(self.feature_info), indices)
        features, maps = x, []
        for number, (output, grid) in enumerate(self.block_outputs(x)):
            features = output
            if number in numbers:
                taken = self.feature_map(self.norm(output) if norm else output, grid)
                maps.append(taken if output_fmt == "NCHW" else taken.flatten(2).mT)
            if stop_early and number == max(numbers):
                break
        return maps if intermediates_only else (self.norm(features), maps)

    def forward_features(self, x: Tensor) -> Tensor:
        """`(B, in_chans, H, W)` to the normalised output of the last block."""
        features = x
        for output, _ in self.block_outputs(x):
            features = output
        return self.norm(features)

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits `(B, num_classes)`, or to `(B, num_features)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_chans, H, W)` to `(B, num_classes)`."""
        return self.forward_head(self.forward_features(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades computation for memory in training."""
        self.grad_checkpointing = enable

    def run_block(self, block: Callable[..., Any], *args: Any) -> Any:
        """Runs a block, without keeping its activations if checkpointing is on."""
        if self.grad_checkpointing and self.training:
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class ClassTokenClassifier(TimmClassifier):
    """A transformer that classifies by its one class token, the first of its tokens."""

    head: nn.Module
    head_drop: nn.Module

    def __init__(self, num_classes: int, in_chans: int, num_features: int) -> None:
        super().__init__(num_classes, in_chans, num_features)
        self.embed_dim = num_features
        self.num_prefix_tokens = 1

    def feature_map(self, output: Tensor, grid: Grid) -> Tensor:
        """Tokens `(B, prefix + H * W, D)` as a map `(B, D, H, W)`, without the prefix tokens."""
        patches = output[:, output.shape[1] - math.prod(grid) :]
        return patches.mT.unflatten(-1, grid)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens `(B, 1 + N, D)` to `(B, num_classes)`, or to the class token `(B, D)`."""
        x = self.head_drop(x[:, 0])
        return x if pre_logits else self.head(x)

    def new_classifier(self) -> nn.Module:
        """A last layer for `num_classes` classes."""
        if self.num_classes > 0:
            return nn.Linear(self.embed_dim, self.num_classes)
        return nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new last layer, for other classes. The class token is the only pooling."""
        assert global_pool in (None, "token"), f"pools by its class token, not {global_pool!r}"
        self.num_classes = num_classes
        self.head = self.new_classifier()
