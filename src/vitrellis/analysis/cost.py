"""The cost of a model: parameters, multiply-adds, memory, time."""

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

from vitrellis.user_cache import keep_compiled_code

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Timing:
    """The times of repeated measurements, in seconds.

    Attributes:
        median: The median.
        fastest: The shortest time.
        slowest: The longest time.
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
    """The cost of one model at one size.

    Attributes:
        trainable_parameters: The number of parameters that are trained.
        parameters: The number of all parameters.
        macs: The multiply-adds of one forward pass for one image: of convolutions, linear layers
            and both products of attention; half of the count of torch's flop counter.
        activation_bytes: The bytes that one training step keeps for its backward pass, per image.
        peak_bytes: The most memory in use during a training step at `batch_size`; GPUs only.
        latency: The time of the forward pass of one image.
        forward: The time of the forward pass of a batch, without gradients.
        step: The time of forward and backward pass of a batch, without the optimizer's update.
        batch_size: The number of images in a batch.
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


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """The multiply-adds of one forward pass for one image, by torch's flop counter.

    Nothing is computed: only shapes go through the model.

    Args:
        model: The model, which is not changed; a copy without values is counted.
        shape: `(C, H, W)` of the image.
    """
    shapes = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(torch.empty(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def activation_bytes(model: nn.Module, images: Tensor, precision: Precision = "float32") -> int:
    """The bytes that a training step keeps between forward and backward pass, per image.

    Parameters do not count, and a tensor that several operations keep counts once.

    Args:
        model: In training mode.
        images: `(B, C, H, W)`.
        precision: The precision of the arithmetic.
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
    """Measures all costs of a model on its device.

    Every measurement is warmed up, and waits for the device before and after.

    Args:
        model: The model, on the device to measure.
        shape: `(C, H, W)` of the images.
        batch_size: The number of images in a batch of `forward` and `step`.
        precision: The precision of the arithmetic; below float32, by autocast.
        compiled: Whether torch.compile is used for the timings.
        repeats: The most measurements of each kind.
        seconds: The time after which no measurement of a kind starts; at least three are made.
    """
    device = _device(model)
    macs = count_macs(model, shape)
    images = torch.randn(batch_size, *shape, device=device)
    kept = activation_bytes(model.train(), images, precision)
    if compiled:
        keep_compiled_code()
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
    """Times repeated calls, after two calls that do not count.

    Args:
        work: The function to measure.
        device: The device that runs it, whose work is waited for.
        repeats: The most measurements.
        seconds: The time after which no measurement starts; at least three are made.
    """
    for _ in range(2):
        work()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 3 or (len(taken) < repeats and time.perf_counter() < until):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - started)
    return Timing(statistics.median(taken), min(taken), max(taken))


def arithmetic(device: torch.device, precision: Precision, *, keeps_casts: bool = True) -> Any:
    """The context in which a model computes in that precision.

    Args:
        device: Where the model is.
        precision: The precision of products and convolutions.
        keeps_casts: Whether weights are cast once for all passes in the context.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision), cache_enabled=keeps_casts)


def total(logits: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A scalar to differentiate, from the logits of one or several heads."""
    heads = logits if isinstance(logits, tuple) else (logits,)
    return torch.stack([head.float().square().mean() for head in heads]).sum()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked to; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
