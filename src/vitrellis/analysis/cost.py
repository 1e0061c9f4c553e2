"""What a model costs: parameters, multiply-adds, memory, time."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing.

    Attributes:
        median: Seconds.
        fastest: Seconds.
        slowest: Seconds.
    """

    median: float
    fastest: float
    slowest: float

    @property
    def spread(self) -> float:
        """Half of the range, in per cent of the median."""
        return 50 * (self.slowest - self.fastest) / self.median

    def milliseconds(self) -> dict[str, float]:
        """The three figures by name, in milliseconds."""
        return {name: 1000 * seconds for name, seconds in asdict(self).items()}


@dataclass(frozen=True)
class Cost:
    """What one model costs at one size.

    Attributes:
        trainable_parameters: Those that are trained.
        parameters: All.
        macs: Multiply-adds of one forward pass for one image: of convolutions, linear layers and
            both products of attention; half of what torch's flop counter counts.
        activation_bytes: What one training step keeps for its backward pass, per image.
        peak_bytes: Most memory in use during a training step at `batch_size`; on GPUs only.
        latency: Of the forward pass of one image.
        forward: Of the forward pass of a batch, without gradients.
        step: Of forward and backward pass of a batch, without the optimizer's update.
        batch_size: Images in a batch.
    """

    trainable_parameters: int
    parameters: int
    macs: int
    activation_bytes: int
    peak_bytes: int | None
    latency: Timing
    forward: Timing
    step: Timing
    batch_size: int

    def images_per_second(self, timing: Timing) -> float:
        """The speed, from the time of a batch."""
        return self.batch_size / timing.median


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
    """

    model: str
    img_size: tuple[int, int]
    precision: Precision
    compiled: bool
    top1: float | None
    cost: Cost

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
        }


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass for one image, by torch's flop counter.

    Nothing is computed: shapes alone go through the model.

    Args:
        model: Left as it is; a copy without values is counted.
        shape: `(C, H, W)` of the image.
    """
    shapes = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(torch.empty(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def activation_bytes(model: nn.Module, images: Tensor, precision: Precision = "float32") -> int:
    """Bytes that a training step keeps between forward and backward pass, per image.

    Parameters do not count, and what several operations keep counts once.

    Args:
        model: In training mode.
        images: `(B, C, H, W)`.
        precision: Of the arithmetic.
    """
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held = []  # so that no memory is given out twice while we count

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with saved_tensors_hooks(remember, lambda tensor: tensor), arithmetic(images.device, precision):
        loss = total(model(images))
    del loss
    return sum(kept.values()) // len(images)


def measure(
    model: nn.Module,
    *,
    shape: tuple[int, int, int],
    batch_size: int,
    precision: Precision = "float32",
    compiled: bool = False,
    repeats: int = 10,
    seconds: float = 2.0,
) -> Cost:
    """All costs of a model on its device.

    Every measurement is warmed up, and waits for the device before and after.

    Args:
        model: On the device that is measured.
        shape: `(C, H, W)` of the images.
        batch_size: For `forward` and `step`.
        precision: Of the arithmetic; below float32, by autocast.
        compiled: Whether torch.compile is used for the timings.
        repeats: Most measurements of each kind.
        seconds: Of each kind, after which no further measurement begins; at least three are made.
    """
    device = _device(model)
    macs = count_macs(model, shape)
    images = torch.randn(batch_size, *shape, device=device)
    kept = activation_bytes(model.train(), images, precision)
    runner: Any = torch.compile(model) if compiled else model

    def forward(batch: Tensor) -> None:
        with torch.no_grad(), arithmetic(device, precision):
            runner(batch)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with arithmetic(device, precision):
            loss = total(runner(images))
        loss.backward()

    model.eval()
    latency = timed(lambda: forward(images[:1]), device, repeats, seconds)
    throughput = timed(lambda: forward(images), device, repeats, seconds)
    model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = timed(step, device, repeats, seconds)
    model.zero_grad(set_to_none=True)
    parameters = list(model.parameters())
    return Cost(
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        parameters=sum(p.numel() for p in parameters),
        macs=macs,
        activation_bytes=kept,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        latency=latency,
        forward=throughput,
        step=training,
        batch_size=batch_size,
    )


def timed(work: Callable[[], None], device: torch.device, repeats: int, seconds: float) -> Timing:
    """Repeats something, after two times that do not count.

    Args:
        work: What to measure.
        device: That has to be waited for.
        repeats: Most measurements.
        seconds: After which no further one begins; at least three are made.
    """
    for _ in range(2):
        work()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 3 or (len(taken) < repeats and time.perf_counter() < until):
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        taken.append(time.perf_counter() - started)
    return Timing(statistics.median(taken), min(taken), max(taken))


def arithmetic(device: torch.device, precision: Precision) -> Any:
    """The context in which a model computes in that precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def total(logits: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number to differentiate, of one or several heads."""
    heads = logits if isinstance(logits, tuple) else (logits,)
    return torch.stack([head.float().square().mean() for head in heads]).sum()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
