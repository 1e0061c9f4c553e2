"""Speed of Vitrellis' token pruning (EViT) against the unpruned ViT of the same weights.

Forward passes without gradients, and training steps without the optimizer (forward and backward
pass). Both sides take turns on the same batch, eager; the tables have the median speeds, and the
median, lowest and highest ratio. Processor time of one thread is counted, which other work on the
machine changes little; with --threads above 1, time on the clock.

    python benchmarks/pruning.py [--rounds 5] [--batch-size 32] [--keep-rate 0.7] [--only NAME...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from vitrellis.analysis.cost import arithmetic, count_macs
from vitrellis.models import create_model
from vitrellis.report.hardware import describe_hardware


class Case(NamedTuple):
    """A model, and how it prunes.

    Attributes:
        name: The model.
        img_size: The side of its images in pixels.
        patch_size: The side of its patches.
        layers: The layers that leave tokens behind.
        fuse: Whether what is left behind is fused into one token.
    """

    name: str
    img_size: int
    patch_size: int
    layers: Sequence[int] = (3, 6, 9)
    fuse: bool = True

    @property
    def num_tokens(self) -> int:
        """The patches of an image."""
        return (self.img_size // self.patch_size) ** 2


CASES = [
    Case("vit_micro_patch7_28", 28, 7, (1, 2)),
    Case("vit_micro_patch4_28", 28, 4, (1, 2)),
    Case("vit_micro_patch4_28", 28, 2, (1, 2)),
    Case("vit_tiny_patch8_64", 64, 8),
    Case("deit_tiny_patch16_224", 224, 16),
    Case("deit_small_patch16_224", 224, 16),
    Case("deit_small_patch16_224", 224, 16, fuse=False),
]


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description="Pruned against unpruned ViTs.")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each side")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--keep-rate", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision")
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    counted = "processor time" if arguments.threads == 1 else "time on the clock"
    print(
        f"{describe_hardware()}; {arguments.threads} thread(s), {counted}; batches of "
        f"{arguments.batch_size}, keep rate {arguments.keep_rate:g}, "
        f"{'bfloat16' if arguments.bfloat16 else 'float32'}"
    )
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for title, run in (("forward pass", forward), ("training step", step)):
        print(f"\n| {title} | tokens | MACs | unpruned, img/s | pruned, img/s | ratio |")
        print("|---|--:|--:|--:|--:|--:|", flush=True)
        for case in CASES:
            if not arguments.only or case.name in arguments.only:
                row(case, run, clock, arguments)


def row(
    case: Case,
    run: Callable[[nn.Module, torch.Tensor], None],
    clock: Callable[[], float],
    arguments: argparse.Namespace,
) -> None:
    """Measures both sides in turns, and prints a row."""
    plain, pruned = models(case, arguments.keep_rate)
    images = torch.randn(arguments.batch_size, 3, case.img_size, case.img_size)
    slow: list[float] = []
    fast: list[float] = []
    for number in range(arguments.rounds + 1):
        for model, speeds in ((plain, slow), (pruned, fast)):
            started = clock()
            with arithmetic(images.device, "bfloat16" if arguments.bfloat16 else "float32"):
                run(model, images)
            if number:  # the first round is warm-up
                speeds.append(len(images) / (clock() - started))
    ratios = [after / before for before, after in zip(slow, fast, strict=True)]
    macs = [count_macs(model, tuple(images.shape[1:])) / 1e6 for model in (plain, pruned)]
    print(
        f"| `{case.name}`, {'fused' if case.fuse else 'dropped'} | {case.num_tokens} "
        f"| {macs[0]:,.0f} → {macs[1]:,.0f} M "
        f"| {statistics.median(slow):,.1f} | {statistics.median(fast):,.1f} "
        f"| **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |",
        flush=True,
    )


def models(case: Case, keep_rate: float) -> tuple[nn.Module, nn.Module]:
    """The unpruned model, and the pruned one with its weights."""
    settings: dict[str, Any] = {
        "num_classes": 1000,
        "img_size": case.img_size,
        "patch_size": case.patch_size,
    }
    pruning: dict[str, Any] = {
        "keep_rate": keep_rate,
        "drop_layers": case.layers,
        "fuse_token": case.fuse,
    }
    plain = create_model(case.name, **settings)
    pruned = create_model(case.name, **settings, **pruning)
    pruned.load_state_dict(plain.state_dict())
    return plain, pruned


@torch.no_grad()
def forward(model: nn.Module, images: torch.Tensor) -> None:
    """One forward pass."""
    model.eval()(images)


def step(model: nn.Module, images: torch.Tensor) -> None:
    """One forward and backward pass."""
    model.train()(images).float().logsumexp(dim=-1).mean().backward()
    model.zero_grad()


if __name__ == "__main__":
    main()
