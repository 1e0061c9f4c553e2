"""Optimizers with the reference's parameter groups, and learning rates over time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    no_weight_decay: Collection[str] = (),
    head: Collection[str] = (),
    head_lr_ratio: float = 1.0,
) -> list[dict[str, Any]]:
    """Splits parameters into head and body, with and without weight decay.

    Without decay go biases, all one-dimensional parameters, and those named in `no_weight_decay`
    (class tokens, position embeddings). Source: github.com/lkhl/tiny-transformers, whose guided
    runs lose the head's groups behind a name prefix; ours don't.

    Args:
        module: What is trained. Frozen parameters are left out.
        lr: Learning rate of the body.
        weight_decay: Of the groups with decay.
        no_weight_decay: Full parameter names.
        head: Module names of the classifiers; their parameters get `lr * head_lr_ratio`.
        head_lr_ratio: Factor for the head's learning rate.

    Returns:
        Non-empty groups, each with `name`, `params`, `param_names`, `lr`, `base_lr` and
        `weight_decay`.
    """
    groups: dict[str, dict[str, Any]] = {
        f"{part}_{decay}": {
            "name": f"{part}_{decay}",
            "params": [],
            "param_names": [],
            "lr": lr * (head_lr_ratio if part == "head" else 1.0),
            "base_lr": lr * (head_lr_ratio if part == "head" else 1.0),
            "weight_decay": weight_decay if decay == "decay" else 0.0,
        }
        for part in ("head", "body")
        for decay in ("no_decay", "decay")
    }
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_exempt = parameter.ndim <= 1 or name.endswith(".bias") or name in no_weight_decay
        is_head = any(name.startswith(f"{prefix}.") for prefix in head)
        group = groups[f"{'head' if is_head else 'body'}_{'no_decay' if is_exempt else 'decay'}"]
        group["params"].append(parameter)
        group["param_names"].append(name)
    return [group for group in groups.values() if group["params"]]


def classifier_names(model: nn.Module) -> list[str]:
    """Names of the modules that `model.get_classifier()` returns, one or several."""
    classifiers = model.get_classifier()  # type: ignore[operator]  # timm's convention
    if isinstance(classifiers, nn.Module):
        classifiers = (classifiers,)
    wanted = {id(classifier) for classifier in classifiers}
    return [name for name, module in model.named_modules() if id(module) in wanted]


def create_optimizer(
    name: Literal["adamw", "sgd"],
    groups: Sequence[dict[str, Any]],
    *,
    betas: tuple[float, float],
    momentum: float,
    nesterov: bool,
    fused: bool,
) -> Optimizer:
    """The optimizer over `parameter_groups`; each group brings its learning rate and decay.

    Args:
        name: "adamw" (Loshchilov and Hutter, 2019) or "sgd".
        groups: From `parameter_groups`.
        betas: Of AdamW.
        momentum: Of SGD.
        nesterov: Of SGD; needs momentum.
        fused: One kernel for all parameters: faster, but gradients cannot be clipped with it
            under 16-mixed, because it undoes their scaling itself.
    """
    if name == "adamw":
        return AdamW(list(groups), betas=betas, fused=fused)
    nesterov = nesterov and momentum > 0
    return SGD(list(groups), momentum=momentum, nesterov=nesterov, fused=fused)


@dataclass(frozen=True)
class LearningRate:
    """The learning rate over time, a pure function of the count: nothing to save, or to resume.

    timm's `CosineLRScheduler` computes the same numbers (the tests compare), but has one warm-up
    start for all groups, and a state.

    Attributes:
        name: "cosine" down to `min_lr`, "constant", or "step". All after the warm-up.
        epochs: Length of the run.
        steps_per_epoch: Optimizer steps.
        warmup_epochs: The rate rises linearly from `warmup_factor` times the base rate.
        warmup_factor: See above.
        min_lr: Where the cosine ends.
        per: Whether the rate changes every step or every epoch.
        shift_cosine: Start the cosine after the warm-up. The published schedule does not: its
            cosine counts from the very first epoch, and the warm-up replaces its beginning.
        milestones: Of "step": 0-based epochs in which the rate changes, rising.
        factors: Of "step": by what the base rate is multiplied from each of them on.
    """

    name: Literal["cosine", "constant", "step"]
    epochs: int
    steps_per_epoch: int
    warmup_epochs: float
    warmup_factor: float
    min_lr: float
    per: Literal["step", "epoch"]
    shift_cosine: bool
    milestones: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()

    def at(self, epoch: int, step_in_epoch: int, base_lr: float) -> float:
        """The rate of a step.

        Args:
            epoch: 0-based.
            step_in_epoch: 0-based.
            base_lr: The group's rate after the warm-up.
        """
        unit = 1 if self.per == "epoch" else self.steps_per_epoch
        now = epoch if self.per == "epoch" else epoch * self.steps_per_epoch + step_in_epoch
        warmup = round(self.warmup_epochs * unit)
        if now < warmup:
            start = self.warmup_factor * base_lr
            return start + now * (base_lr - start) / warmup
        if self.name == "constant":
            return base_lr
        if self.name == "step":
            passed = bisect.bisect_right(self.milestones, epoch)
            return base_lr * (self.factors[passed - 1] if passed else 1.0)
        offset = warmup if self.shift_cosine else 0
        progress = (now - offset) / max(1, self.epochs * unit - offset)
        return self.min_lr + 0.5 * (base_lr - self.min_lr) * (1 + math.cos(math.pi * progress))

    def set(self, optimizer: Optimizer, epoch: int, step_in_epoch: int) -> float:
        """Sets the rates of all groups for this step, and returns that of the body."""
        for group in optimizer.param_groups:
            group["lr"] = self.at(epoch, step_in_epoch, group["base_lr"])
        return body_lr(optimizer)


def body_lr(optimizer: Optimizer) -> float:
    """The learning rate of the body's parameters; the head's, if nothing else is trained."""
    groups = optimizer.param_groups
    body = [group for group in groups if group["name"].startswith("body")]
    return float((body or groups)[0]["lr"])
