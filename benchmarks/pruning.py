"""Images per second of EViT's forward pass against the unpruned ViT of the same weights.

Both sides take turns on the same batch, eager, without gradients; the table has the median speeds,
and the median, lowest and highest ratio.

    python benchmarks/pruning.py [--rounds 5] [--batch-size 32] [--keep-rate 0.7]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from vitrellis.analysis.cost import count_macs
from vitrellis.models import create_model
from vitrellis.report.hardware import describe_hardware

PAIRS = [
    ("deit_tiny_patch16_224", "evit_deit_tiny_patch16_224", True),
    ("deit_small_patch16_224", "evit_deit_small_patch16_224", True),
    ("deit_small_patch16_224", "evit_deit_small_patch16_224", False),
]
"""Unpruned model, pruned model, whether what is dropped is fused into one token."""


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description="EViT against the unpruned ViT, forward pass.")
    parser.add_argument("--rounds", type=int, default=5, help="forward passes of each side")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--keep-rate", type=float, default=0.7)
    arguments = parser.parse_args()
    print(
        f"{describe_hardware()}; 224 pixels, batches of {arguments.batch_size}, "
        f"keep rate {arguments.keep_rate:g}\n"
    )
    print("| model | MACs | unpruned, img/s | pruned, img/s | pruned / unpruned |")
    print("|---|---:|---:|---:|---:|")
    images = torch.randn(arguments.batch_size, 3, 224, 224)
    for name, pruned_name, fuse in PAIRS:
        plain = create_model(name, num_classes=1000, img_size=224).eval()
        pruned = create_model(
            pruned_name,
            num_classes=1000,
            img_size=224,
            keep_rate=arguments.keep_rate,
            fuse_token=fuse,
        ).eval()
        pruned.load_state_dict(plain.state_dict())
        slow, fast = [], []
        for number in range(arguments.rounds + 1):
            seconds = forward_seconds(plain, images), forward_seconds(pruned, images)
            if number:  # the first round is warm-up
                slow.append(len(images) / seconds[0])
                fast.append(len(images) / seconds[1])
        ratios = [after / before for before, after in zip(slow, fast, strict=True)]
        macs = [count_macs(model, (3, 224, 224)) / 1e9 for model in (plain, pruned)]
        print(
            f"| `{pruned_name}`, {'fused' if fuse else 'dropped'} "
            f"| {macs[0]:.2f} → {macs[1]:.2f} G "
            f"| {statistics.median(slow):.1f} | {statistics.median(fast):.1f} "
            f"| **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


@torch.no_grad()
def forward_seconds(model: nn.Module, images: torch.Tensor) -> float:
    """Of one forward pass."""
    started = time.perf_counter()
    model(images)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
