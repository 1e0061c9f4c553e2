"""Counted randomness: what is random about sample i of epoch e is a function of (seed, e, i).

Nothing is consumed, so the number of workers, devices and restarts changes nothing. Every sample
has a 64-bit key; every use of randomness has a named stream; numbers are SplitMix64 (Steele et al.,
OOPSLA 2014) of key, stream and counter, computed for a whole batch in integer arithmetic that is
the same on every device.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

_PHILOX_STREAMS = {"validation": 1, "subset": 2, "long tail": 3, "folds": 4}
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def sample_keys(seed: int, epoch: int, indices: Tensor, view: Tensor | int = 0) -> Tensor:
    """A key for each sample.

    Args:
        seed: The seed of the run.
        epoch: 0-based.
        indices: `(B,)` int64 sample numbers.
        view: `(B,)` int64 or a number: which of several views of the sample in this epoch.

    Returns:
        `(B,)` int64.
    """
    start = _mix_int(_mix_int(seed) + epoch)
    keys = _mix(indices * _signed(_GOLDEN) + _signed(start))
    views = torch.as_tensor(view, device=keys.device)
    return _mix(keys + (views + 1) * _signed(_GOLDEN))


def child_keys(keys: Tensor, stream: str) -> Tensor:
    """Keys of something that belongs to the samples, such as their mixing partners.

    Args:
        keys: `(B,)` int64.
        stream: The name of that thing.
    """
    return _mix(keys ^ _signed(_mix_int(zlib.crc32(stream.encode()))))


def uniform(keys: Tensor, stream: str, n: int) -> Tensor:
    """Numbers in [0, 1).

    Args:
        keys: `(B,)` int64.
        stream: The name of their use; streams are independent of each other.
        n: Numbers for each sample.

    Returns:
        `(B, n)` float32, multiples of 2^-24.
    """
    return _shift(_bits(keys, stream, n), 40).to(torch.float32) * 2.0**-24


def integers(keys: Tensor, stream: str, n: int, *, below: int | Tensor) -> Tensor:
    """Whole numbers from 0 to `below - 1`, equally likely (to `below` parts in 2^31).

    Args:
        keys: `(B,)` int64.
        stream: The name of their use; streams are independent of each other.
        n: Numbers for each sample.
        below: Up to 2^31, or `(B, n)` of such numbers.

    Returns:
        `(B, n)` int64.
    """
    return _shift(_bits(keys, stream, n), 33) * below >> 31


def normal(keys: Tensor, stream: str, n: int) -> Tensor:
    """Standard normal numbers, `(B, n)` float32, by the Box-Muller transform.

    Args:
        keys: `(B,)` int64.
        stream: The name of their use; streams are independent of each other.
        n: Numbers for each sample.
    """
    return _normal(keys, stream, n).to(torch.float32)


def beta(keys: Tensor, stream: str, alpha: float) -> Tensor:
    """Numbers from the symmetric Beta(alpha, alpha) distribution, `(B,)` float32.

    Two gamma variables by Marsaglia and Tsang (2000), the first accepted of eight candidates; all
    eight are refused less than once in 10^10.

    Args:
        keys: `(B,)` int64.
        stream: The name of their use; streams are independent of each other.
        alpha: Positive.
    """
    keys = child_keys(keys, stream)
    logit = _log_gamma_variate(keys, "first", alpha) - _log_gamma_variate(keys, "second", alpha)
    return torch.sigmoid(logit).to(torch.float32)


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A seed for what a step draws in order, such as dropout masks: nonnegative, 63 bits."""
    return _mix_int(_mix_int(_mix_int(_mix_int(seed) + epoch) + step) + rank) >> 1


def philox(seed: int, stream: str) -> np.random.Philox:
    """Random bits that decide once, before training, which images a run uses.

    Args:
        seed: The seed of the images.
        stream: "validation", "subset", "long tail" or "folds"; streams are independent.
    """
    return np.random.Philox(key=np.array([seed % 2**64, _PHILOX_STREAMS[stream]], dtype=np.uint64))


def epoch_order(num_images: int, seed: int, epoch: int, repeats: int = 1) -> tuple[Tensor, Tensor]:
    """The images of an epoch in their order.

    Args:
        num_images: Images of the training split; as many views are shown.
        seed: The seed of the run.
        epoch: 0-based.
        repeats: Views of the same image, one after the other (repeated augmentation, Hoffer et
            al., CVPR 2020); as many fewer images are shown. The last has fewer views where
            `num_images` is no multiple.

    Returns:
        Image indices and view numbers, both `(num_images,)` int64 on the CPU.
    """
    generator = torch.Generator().manual_seed(step_seed(seed, epoch, step=0, rank=-1))
    order = torch.randperm(num_images, generator=generator)
    positions = torch.arange(num_images)
    return order[positions // repeats], positions % repeats


def _normal(keys: Tensor, stream: str, n: int) -> Tensor:
    """Normal numbers, in float64, so that the last bits of a device's logarithm do not matter."""
    keys = child_keys(keys, stream)
    radius = torch.sqrt(-2 * torch.log1p(-_uniform_double(keys, "radius", n)))
    return radius * torch.cos(2 * torch.pi * _uniform_double(keys, "angle", n))


def _log_gamma_variate(keys: Tensor, stream: str, alpha: float) -> Tensor:
    """Logarithm of Gamma(alpha) variables: logarithms, because small alphas underflow."""
    candidates = 8
    shape = alpha + 1  # the method needs at least 1; brought back to alpha below
    d = shape - 1 / 3
    x = _normal(keys, f"{stream}-x", candidates)
    u = _uniform_double(keys, f"{stream}-u", candidates)
    v = (1 + x / (9 * d) ** 0.5) ** 3
    log_v = torch.log(v.clamp_min(1e-300))
    accepted = (v > 0) & (torch.log(u.clamp_min(1e-300)) < 0.5 * x**2 + d - d * v + d * log_v)
    first = accepted.int().argmax(dim=1, keepdim=True)
    boost = _uniform_double(keys, f"{stream}-boost", 1)
    # the factor d is left out: it is the same in both variables of a beta
    return (log_v.gather(1, first) + torch.log(boost.clamp_min(2.0**-54)) / alpha).squeeze(1)


def _uniform_double(keys: Tensor, stream: str, n: int) -> Tensor:
    """`(B, n)` float64 in [0, 1), multiples of 2^-53."""
    return _shift(_bits(keys, stream, n), 11).to(torch.float64) * 2.0**-53


def _bits(keys: Tensor, stream: str, n: int) -> Tensor:
    """`(B, n)` int64, all 64 bits random."""
    counters = torch.arange(1, n + 1, device=keys.device) * _signed(_GOLDEN)  # (n,)
    return _mix(child_keys(keys, stream)[:, None] + counters)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer, on int64 with wrapping multiplication."""
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(x: int) -> int:
    """`_mix` of one unsigned number; the first addition keeps 0 from staying 0."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x
