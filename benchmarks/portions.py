"""How far a re-weighted loss is off if each portion of a batch is divided by its own weights.

    python benchmarks/portions.py

The published code of LDAM-DRW and DeiT-LT divides so. Labels are drawn as on CIFAR-100-LT at an
imbalance factor of 100, predictions at random; nothing is timed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.objectives import effective_number_weights

CLASSES, BATCH, PORTION, BATCHES = 100, 1024, 128, 100


def main() -> None:
    """Prints the largest difference of the value, and the mean one of the gradient."""
    torch.manual_seed(0)
    counts = (500 * 0.01 ** (torch.arange(CLASSES) / (CLASSES - 1))).long()
    weights = effective_number_weights(counts).float()
    values, gradients = [], []
    for _ in range(BATCHES):
        labels = torch.multinomial(counts.float(), BATCH, replacement=True)
        logits = torch.randn(BATCH, CLASSES, requires_grad=True)
        whole = F.cross_entropy(logits, labels, weight=weights)
        portions = torch.stack(
            [
                F.cross_entropy(part, of_part, weight=weights)
                for part, of_part in zip(logits.split(PORTION), labels.split(PORTION), strict=True)
            ]
        ).mean()
        right, theirs = gradient(whole, logits), gradient(portions, logits)
        values.append(abs(portions.item() / whole.item() - 1))
        gradients.append(((theirs - right).norm() / right.norm()).item())
    print(f"value     off by up to {100 * max(values):.1f} % in {BATCHES} batches of {BATCH}")
    print(f"gradient  off by {100 * sum(gradients) / BATCHES:.0f} % (norm, mean)")


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    """The gradient of a scalar with respect to the logits, `(B, K)`."""
    (result,) = torch.autograd.grad(value, logits)
    return result


if __name__ == "__main__":
    main()
