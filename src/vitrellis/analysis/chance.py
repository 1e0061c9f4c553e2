"""Whether a classifier's figures could be those of one that does not look at the images.

Two comparisons, both one-sided at the level of 5 %:

- With always answering the largest class, on the same images: McNemar's exact test (McNemar,
  Psychometrika 1947), which is the sign test of the images that only one of the two gets right.
- With answers that are independent of the class. If such a classifier gives the answer k with
  probability q_k, its class-balanced accuracy is 1/K on average, whatever the q_k are, with the
  variance `sum_k q_k (1 - q_k) / n_k / K^2` for n_k images of class k. The q_k are estimated by the
  shares of the model's own answers. Chance ends 1.645 standard deviations above 1/K (the normal
  approximation of the sum of binomials).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.stats import binomtest, norm
from torch import Tensor

LEVEL = 0.05
"""The probability that a classifier without knowledge is taken for better than that."""


def chance_warnings(confusion: Tensor, class_names: Sequence[str]) -> list[str]:
    """Says so if a model is not better than always answering the largest class, or near chance.

    Args:
        confusion: `(K, K)` counts of a split, rows are the true classes.
        class_names: The K class names.

    Returns:
        No, one or two sentences. With images of one class only, there is nothing to compare.
    """
    images = confusion.sum(dim=1)  # (K,)
    if int((images > 0).sum()) < 2:
        return []
    return [*_largest_class(confusion, images, class_names), *_near_chance(confusion, images)]


def _largest_class(confusion: Tensor, images: Tensor, class_names: Sequence[str]) -> list[str]:
    largest = int(images.argmax())
    total = int(images.sum())
    right = confusion.diagonal()
    only_model = int(right.sum() - right[largest])
    only_constant = int(images[largest] - right[largest])
    differing = only_model + only_constant
    if differing:
        p_value = binomtest(only_model, differing, 0.5, alternative="greater").pvalue
        if p_value <= LEVEL:
            return []
    accuracy, share = int(right.sum()) / total, int(images[largest]) / total
    verdict = "not better" if accuracy <= share else "not clearly better"
    return [
        f"{verdict} than always answering the largest class: accuracy {100 * accuracy:.1f} %, and "
        f"{100 * share:.1f} % of the {total:,} images are {class_names[largest]!r}"
    ]


def _near_chance(confusion: Tensor, images: Tensor) -> list[str]:
    occurs = images > 0
    count = int(occurs.sum())
    recall = confusion.diagonal()[occurs].double() / images[occurs]
    answers = confusion.sum(dim=0)[occurs].double() / images.sum()  # (K,)
    variance = (answers * (1 - answers) / images[occurs]).sum().item() / count**2
    ends = 1 / count + float(norm.isf(LEVEL)) * math.sqrt(variance)
    balanced = recall.mean().item()
    if balanced > ends + torch.finfo(torch.float64).eps:
        return []
    return [
        f"near chance: class-balanced accuracy {100 * balanced:.1f} %, where guessing reaches "
        f"{100 / count:.1f} % on average and up to {100 * ends:.1f} % by luck"
    ]
