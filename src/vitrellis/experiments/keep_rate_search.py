"""Searches keep rates for a speed: accuracy on validation images against measured images/s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from vitrellis.analysis.cost import count_macs
from vitrellis.analysis.inference import collect_logits
from vitrellis.analysis.metrics import class_balanced_accuracy, count_by_class
from vitrellis.analysis.pruning_gain import Gain, PruningGain, all_tokens, measure_pruning
from vitrellis.assembly.pruned import Method, Reduction, pruned
from vitrellis.data.loader import EvalLoader
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.runs.exported import Trained

LADDERS: dict[Method, tuple[float, ...]] = {
    "evit": (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    "tome": (0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5),
}
"""The rates that a search tries first, from slow to fast. Merging is done in many more layers."""

REFINEMENTS = 2
"""The rates that are tried between the last one that is too slow and the first that is not."""

SelectBy = Literal["top1", "balanced_accuracy"]


@dataclass(frozen=True)
class Tried:
    """A reduction that was tried; `reduction` and `gain` are None for all tokens.

    Attributes:
        reduction: How tokens were left out.
        macs: The multiply-adds of one image.
        top1: The accuracy on validation images.
        balanced_accuracy: The class-balanced accuracy on them.
        gain: The measured speed, and that of all tokens beside it.
    """

    reduction: Reduction | None
    macs: int
    top1: float
    balanced_accuracy: float
    gain: Gain | None

    @property
    def ratio(self) -> float:
        """How many times as many images per second as with all tokens."""
        return 1.0 if self.gain is None else self.gain.ratio

    def figure(self, select_by: SelectBy) -> float:
        """The accuracy that reductions are chosen by."""
        return self.top1 if select_by == "top1" else self.balanced_accuracy

    def to_json(self) -> dict[str, object]:
        """The figures by name."""
        how = self.reduction
        return {
            "method": None if how is None else how.method,
            "keep_rate": 1.0 if how is None else how.arguments["keep_rate"],
            "layers": [] if how is None else list(how.layers),
            "fuse": None if how is None or how.method == "tome" else how.fuse,
            "macs": self.macs,
            "val_top1": self.top1,
            "val_balanced": self.balanced_accuracy,
            "gain": None if self.gain is None else self.gain.to_json(),
        }


@dataclass
class Trials:
    """Tries reductions of one model, and remembers what came out.

    Attributes:
        trained: The model, with all tokens or not.
        loader: Validation images, on the device to measure.
        device: The device.
        batch_size: The number of images in a batch that is timed.
        seconds: The time for each measurement.
        tell: Called with each result.
    """

    trained: Trained
    loader: EvalLoader
    device: torch.device
    batch_size: int
    seconds: float
    tell: Callable[[Tried], None] = lambda tried: None
    done: list[Tried] = field(default_factory=list)

    def attempt(self, reduction: Reduction) -> Tried:
        """Measures a reduction; the first time, also the model with all tokens."""
        model = pruned(self.trained, reduction).model.to(self.device)
        assert isinstance(model, TokenReduction)
        if not self.done:
            with all_tokens(model):
                self._remember(None, model, None)
        gain = measure_pruning(
            model, shape=self._shape, batch_size=self.batch_size, seconds=self.seconds
        )
        return self._remember(reduction, model, gain)

    def search(self, template: Reduction, target: float) -> None:
        """Tries falling keep rates until the target is reached, and rates between the last two.

        Args:
            template: The method and the layers.
            target: How many times as many images per second as with all tokens.
        """
        slow, fast = 1.0, None
        for rate in LADDERS[template.method]:
            if self.attempt(_at(template, rate)).ratio >= target:
                fast = rate
                break
            slow = rate
        if fast is None:
            return
        for _ in range(REFINEMENTS):
            between = round((slow + fast) / 2, 3)
            if self.attempt(_at(template, between)).ratio >= target:
                fast = between
            else:
                slow = between

    def best(self, target: float, select_by: SelectBy) -> Tried | None:
        """The most accurate of the reductions that reach a target, the fastest of equal ones."""
        reached = [tried for tried in self.done if tried.gain and tried.ratio >= target]
        return max(reached, key=lambda tried: (tried.figure(select_by), tried.ratio), default=None)

    def fastest(self) -> Tried:
        """The fastest of all that were tried."""
        return max(self.done, key=lambda tried: tried.ratio)

    @property
    def _shape(self) -> tuple[int, int, int]:
        shown = self.trained.preprocessing
        return (shown.channels, *shown.img_size)

    def _remember(
        self, reduction: Reduction | None, model: nn.Module, gain: PruningGain | None
    ) -> Tried:
        logits, labels = collect_logits(model, self.loader)
        right, images = count_by_class(logits.argmax(dim=-1), labels, logits.shape[1])
        tried = Tried(
            reduction=reduction,
            macs=count_macs(model, self._shape),
            top1=(right.sum() / images.sum()).item(),
            balanced_accuracy=class_balanced_accuracy(right, images),
            gain=None if gain is None else gain.forward,
        )
        self.done.append(tried)
        self.tell(tried)
        return tried


def _at(template: Reduction, rate: float) -> Reduction:
    return Reduction(template.method, rate, template.layers, template.fuse)


def in_order(tried: Sequence[Tried]) -> list[Tried]:
    """All tokens first, then method by method, from the most multiply-adds to the fewest."""

    def place(each: Tried) -> tuple[str, int]:
        return ("" if each.reduction is None else each.reduction.method, -each.macs)

    return sorted(tried, key=place)
