"""What `vitrellis bench` measured of a model, and how."""

from __future__ import annotations

from dataclasses import dataclass

from vitrellis.analysis.cost import Cost, Precision
from vitrellis.analysis.pruning_gain import PruningGain


@dataclass(frozen=True)
class Measurement:
    """The cost of one model, and what it was measured with.

    Attributes:
        model: The name of the model, or the run directory.
        img_size: Height and width of the images, in pixels.
        precision: The precision of the arithmetic.
        compiled: Whether torch.compile was used for the timings.
        top1: The test accuracy of a run; None if it is not known.
        cost: The cost.
        pruning: The gain over the same model with all tokens; None if it prunes none.
    """

    model: str
    img_size: tuple[int, int]
    precision: Precision
    compiled: bool
    top1: float | None
    cost: Cost
    pruning: PruningGain | None = None

    @property
    def pixels(self) -> str:
        """The size of the images, such as "32" or "28x14"."""
        height, width = self.img_size
        return str(height) if height == width else f"{height}x{width}"

    def to_json(self) -> dict[str, object]:
        """The measurement as `vitrellis bench --json` prints it, with times in milliseconds."""
        cost = self.cost
        return {
            "model": self.model,
            "img_size": list(self.img_size),
            "precision": self.precision,
            "compiled": self.compiled,
            "top1": self.top1,
            "parameters": cost.parameters,
            "trainable_parameters": cost.trainable_parameters,
            "macs": cost.macs,
            "activation_bytes_per_image": cost.activation_bytes,
            "peak_bytes": cost.peak_bytes,
            "batch_size": cost.batch_size,
            "latency_ms": cost.latency.milliseconds(),
            "forward_ms": cost.forward.milliseconds(),
            "step_ms": cost.step.milliseconds(),
            "forward_images_per_second": cost.images_per_second(cost.forward),
            "step_images_per_second": cost.images_per_second(cost.step),
            "pruning": None if self.pruning is None else self.pruning.to_json(),
        }
