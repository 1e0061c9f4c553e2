"""Optimizers with the reference's parameter groups, and learning rates over time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypedDict

from timm.optim import create_optimizer_v2, get_optimizer_info, kron
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vitrellis.errors import UsageError


class ParameterGroup(TypedDict):
    """A group of parameters with one learning rate and one weight decay, as torch takes it.

    Attributes:
        name: "head" or "body", with "_decay" or "_no_decay".
        params: The parameters.
        param_names: Their full names.
        lr: The learning rate of the current step.
        base_lr: The learning rate after the warm-up, before the factor of the layer.
        lr_scale: The factor of the layer (layer-wise learning-rate decay), 1 without one.
        weight_decay: The weight decay.
    """

    name: str
    params: list[nn.Parameter]
    param_names: list[str]
    lr: float
    base_lr: float
    lr_scale: float
    weight_decay: float


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_all: bool = False,
    no_weight_decay: Collection[str] = (),
    head: Collection[str] = (),
    head_lr_ratio: float = 1.0,
    lr_scales: Mapping[str, float] | None = None,
) -> list[ParameterGroup]:
    """Splits parameters into head and body, with and without weight decay, and by layers.

    Biases, all one-dimensional parameters, and those named in `no_weight_decay` (class tokens,
    position embeddings) have no weight decay. Source: github.com/lkhl/tiny-transformers, whose
    guided runs lose the head's groups because of a name prefix; ours do not.

    Args:
        module: The module to train. Frozen parameters are left out.
        lr: The learning rate of the body.
        weight_decay: The weight decay of the groups with decay.
        decay_all: Put all parameters into the groups with decay, as `SGD(model.parameters())` does
            in github.com/kaidic/LDAM-DRW.
        no_weight_decay: The full names of parameters without weight decay, or patterns of such
            names with `*`, as timm takes them.
        head: Module names of the classifiers; their parameters get `lr * head_lr_ratio`.
        head_lr_ratio: The factor for the head's learning rate.
        lr_scales: The factors of the learning rate by the full names of parameters, 1 for others.

    Returns:
        The groups that are not empty: those of the head first, then in falling order of the factor.
    """
    groups: dict[tuple[bool, float, bool], ParameterGroup] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_exempt = not decay_all and (
            parameter.ndim <= 1
            or name.endswith(".bias")
            or any(fnmatchcase(name, pattern) for pattern in no_weight_decay)
        )
        is_head = any(name.startswith(f"{prefix}.") for prefix in head)
        scale = (lr_scales or {}).get(name, 1.0)
        key = (not is_head, -scale, not is_exempt)
        if key not in groups:
            base_lr = lr * (head_lr_ratio if is_head else 1.0)
            groups[key] = {
                "name": f"{'head' if is_head else 'body'}_{'no_decay' if is_exempt else 'decay'}",
                "params": [],
                "param_names": [],
                "lr": base_lr * scale,
                "base_lr": base_lr,
                "lr_scale": scale,
                "weight_decay": 0.0 if is_exempt else weight_decay,
            }
        groups[key]["params"].append(parameter)
        groups[key]["param_names"].append(name)
    return [groups[key] for key in sorted(groups)]


def classifier_names(model: nn.Module) -> list[str]:
    """The names of the modules that `model.get_classifier()` returns, one or several."""
    classifiers = model.get_classifier()  # type: ignore[operator]  # timm's convention
    if isinstance(classifiers, nn.Module):
        classifiers = (classifiers,)
    return [name for name, module in model.named_modules() if module in classifiers]


def create_optimizer(
    name: str,
    groups: Sequence[ParameterGroup],
    *,
    betas: tuple[float, float] | None,
    momentum: float,
    nesterov: bool,
    fused: bool,
    args: Mapping[str, Any] | None = None,
) -> Optimizer:
    """The optimizer over `parameter_groups`, which have their own learning rates and decay.

    Args:
        name: "adamw" (Loshchilov and Hutter, 2019), "sgd", or a name of timm's factory.
        groups: The groups that `parameter_groups` returns.
        betas: beta1 and beta2; None for the optimizer's own.
        momentum: The momentum of SGD, and of those of timm that have one.
        nesterov: Whether SGD uses Nesterov momentum; without momentum it does not.
        fused: Whether one kernel updates all parameters. This is faster, but gradients cannot be
            clipped with it under 16-mixed, because it undoes their scaling itself. Optimizers of
            timm decide for themselves.
        args: Further arguments of an optimizer of timm.

    Raises:
        UsageError: If timm's optimizer does not take the arguments, or needs a package that is
            missing.
    """
    own = [dict(group) for group in groups]
    if name == "adamw":
        return AdamW(own, betas=betas or (0.9, 0.999), fused=fused)
    if name == "sgd":
        nesterov = nesterov and momentum > 0
        return SGD(own, momentum=momentum, nesterov=nesterov, fused=fused)
    given = dict(args or {})
    base = name.removeprefix("lookahead_")
    if betas is not None and get_optimizer_info(base).has_betas:
        given["betas"] = betas
    if base in _KRON:
        _prepare_kron(name)
    try:
        return create_optimizer_v2(own, name, lr=groups[0]["base_lr"], momentum=momentum, **given)
    except (TypeError, ValueError, ImportError, AssertionError) as error:
        raise UsageError(f"optimizer: {name}: {error} (see optimizer.args)") from error


_KRON = ("kron", "kronc", "kronw")
"""timm's names of PSGD Kron, the only optimizers there that compile themselves."""


def _prepare_kron(name: str) -> None:
    """Makes timm's Kron multiply its factors in a good order, and compile nothing.

    torch takes the order from opt_einsum, but not in compiled code. For a weight of 96 x 48, a step
    takes 0.01 s on one core so, 0.4 s compiled (and 7 s the first time), and 1.2 s without
    opt_einsum, because products with the square of the weight's size are made.

    Raises:
        UsageError: If opt_einsum is missing.
    """
    if not kron.has_opt_einsum:
        raise UsageError(
            f"optimizer.name: {name} needs opt_einsum, without which a step takes minutes. Install "
            "it with: pip install opt_einsum"
        )
    kron.has_dynamo = False  # what timm looks at before it compiles


@dataclass(frozen=True)
class LearningRate:
    """The learning rate as a function of the epoch and the step: it has no state to save.

    timm's `CosineLRScheduler` computes the same numbers (the tests compare), but has one warm-up
    start for all groups, and a state.

    Attributes:
        name: The schedule after the warm-up: "cosine" down to `min_lr`, "constant", or "step".
        epochs: The number of epochs.
        steps_per_epoch: The number of optimizer steps in an epoch.
        warmup_epochs: The length of the warm-up, in which the rate rises linearly.
        warmup_factor: The factor of the base rate at which the warm-up starts.
        min_lr: The rate at which the cosine ends.
        per: Whether the rate changes every step or every epoch.
        shift_cosine: Start the cosine after the warm-up. The published schedule does not: its
            cosine counts from the very first epoch, and the warm-up replaces its beginning.
        milestones: The 0-based epochs in which the rate of "step" changes, in rising order.
        factors: The factor of the base rate from each milestone on.
        iterations: The iterations of an epoch, several of which make a step, for a rate that counts
            them and not the steps: that of the step's first iteration, and of the last iteration in
            an epoch's last step, as in DeiT-LT's code (github.com/val-iisc/DeiT-LT, engine.py).
            None for a rate that counts steps.
        iterations_per_step: The iterations of every step but an epoch's last one.
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
    iterations: int | None = None
    iterations_per_step: int = 1

    def at(self, epoch: int, step_in_epoch: int, base_lr: float) -> float:
        """The rate of a step.

        Args:
            epoch: The number of the epoch, 0-based.
            step_in_epoch: The number of the step in its epoch, 0-based.
            base_lr: The group's rate after the warm-up.
        """
        unit: float
        now: float
        if self.per == "epoch":
            unit, now = 1, epoch
        elif self.iterations is None:
            unit, now = self.steps_per_epoch, epoch * self.steps_per_epoch + step_in_epoch
        else:
            is_last = step_in_epoch == self.steps_per_epoch - 1
            first = step_in_epoch * self.iterations_per_step
            unit = self.iterations
            now = epoch * self.iterations + (self.iterations - 1 if is_last else first)
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
        """Sets the rates of all groups for this step, and returns that of the body.

        The factor of a layer multiplies all of its rate, that at which a cosine ends included.
        """
        for group in optimizer.param_groups:
            scale = group.get("lr_scale", 1.0)  # checkpoints of earlier versions have none
            group["lr"] = self.at(epoch, step_in_epoch, group["base_lr"]) * scale
        return body_lr(optimizer)


def body_lr(optimizer: Optimizer) -> float:
    """The learning rate of the body, of its last layers if they differ; or else the head's."""
    groups = optimizer.param_groups
    body = [group for group in groups if group["name"].startswith("body")]
    return float((body or groups)[0]["lr"])
