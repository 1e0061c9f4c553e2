"""The sections of a recipe on models, optimisation and the machine, one class each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from timm.optim import get_optimizer_info, list_optimizers

from vitrellis.errors import unknown_name
from vitrellis.settings import (
    Arguments,
    AutoOrIndex,
    Count,
    Fraction,
    Index,
    NonNegative,
    Number,
    Positive,
    ProperFraction,
    Section,
)

OWN_OPTIMIZERS = ("adamw", "sgd")
"""The optimizers that torch makes; timm makes the others."""


class Model(Section):
    """The student: any model that timm or Vitrellis registers."""

    name: str
    """The name of the model; `vitrellis models --all` lists them. `hf_hub:OWNER/NAME` is a model of
    the Hub, and `local-dir:FOLDER` one of a folder in timm's format."""
    zero_head: bool = False
    """Whether the classifier starts at exactly zero, as in the published DeiT runs; not for
    distillation."""
    distillation_head: bool = False
    """Whether to add a second classifier, which learns from the teacher alone; the predictions of
    both are averaged. Models with a distillation token (`*_distilled_*`) have one already."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of the model, such as `drop_path_rate`. Any model takes `norm_eps`,
    `class_token_std`, `normalize_features` and `stride_1x1`, too (docs/models)."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All settings of the architecture besides the name."""
        return self.args | ({"distillation_head": True} if self.distillation_head else {})


def _over_epochs_tag(value: object) -> str:
    return "(list)" if isinstance(value, list | tuple) else "(number)"


class SAM(Section):
    """Sharpness-aware minimization: the gradient is computed where the loss is worst nearby.

    It finds flat minima. Source: Foret et al., ICLR 2021, arXiv 2010.01412.
    """

    rho: Annotated[
        Annotated[NonNegative, Tag("(number)")]
        | Annotated[
            Annotated[tuple[tuple[Index, NonNegative], ...], Field(min_length=1)], Tag("(list)")
        ],
        Discriminator(_over_epochs_tag),
    ] = 0.05
    """The radius within which the worst loss is sought: a number, or pairs of an epoch and the
    value from then on, such as `[[0, 0.05], [10, 0.1]]`. While it is 0, steps are plain ones and
    cost no more; otherwise they take twice as long."""

    @model_validator(mode="after")
    def _check_epochs_rise(self) -> SAM:
        epochs = [epoch for epoch, _ in self.steps]
        if epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise ValueError(
                f"rho is given from epochs {epochs} on; the first must be 0, and each later than "
                "the one before, such as [[0, 0.05], [10, 0.1]]"
            )
        return self

    @property
    def steps(self) -> tuple[tuple[int, float], ...]:
        """`rho` as pairs of an epoch and the value from then on."""
        return ((0, self.rho),) if isinstance(self.rho, float) else self.rho


class OptimizerSection(Section):
    """How the weights are updated."""

    name: str = "adamw"
    """The optimizer: `adamw`, `sgd`, or any other that timm's optimizer factory makes, such as
    `lion`, `lamb`, `adan` or `muon`, also after `lookahead_`. `kron` needs the package
    opt_einsum."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of an optimizer of timm, such as `eps`."""
    lr: Positive = 1e-3
    """The learning rate after the warm-up."""
    lr_per_batch: Count | None = None
    """The batch size that `lr` is for. If given, `lr` is scaled in proportion to the real batch
    size."""
    weight_decay: NonNegative = 0.05
    """The weight decay, from which biases, one-dimensional parameters, tokens and position
    embeddings are exempt, unless `decay_all` is true."""
    decay_all: bool = False
    """Whether all parameters decay, biases and norms too, as in published code for long tails."""
    betas: tuple[ProperFraction, ProperFraction] = (0.9, 0.999)
    """AdamW's beta1 and beta2. An optimizer of timm has its own unless they are given."""
    momentum: ProperFraction = 0.9
    """The momentum of SGD, and of those optimizers of timm that have one."""
    nesterov: bool = True
    """Whether SGD uses Nesterov momentum."""
    head_lr_ratio: Positive = 1.0
    """The classifier's learning rate, as a multiple of the others'."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The factor of the learning rate from each layer to the one before it, towards the input
    (layer-wise learning-rate decay), for fine-tuning; 0.65 to 0.9 are usual for transformers. The
    classifier has the full rate. Layers are those of timm's `group_matcher`."""
    sam: SAM | None = None
    """Sharpness-aware minimization."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in OWN_OPTIMIZERS:
            return name
        # those that are left out need other libraries
        known = [str(each) for each in list_optimizers(exclude_filters=["bnb*", "fused*"])]
        base = name.removeprefix("lookahead_")
        if base not in known:
            raise unknown_name("optimizer", name, {*known, *OWN_OPTIMIZERS})
        if get_optimizer_info(base).second_order:
            raise ValueError(f"{name} needs second derivatives, which training does not make")
        return name

    @model_validator(mode="after")
    def _check_args(self) -> OptimizerSection:
        if self.name in OWN_OPTIMIZERS and self.args:
            raise ValueError(
                f"args: {self.name} takes none but the keys of this section; drop them"
            )
        return self


class Schedule(Section):
    """How the learning rate changes during training."""

    name: Literal["cosine", "constant", "step"] = "cosine"
    """The course of the learning rate after the warm-up: half a cosine wave down to `min_lr`, no
    change, or steps at `milestones` by `factors`."""
    warmup_epochs: NonNegative = 0.0
    """The number of epochs in which the learning rate rises linearly at the beginning; 5 to 20 are
    usual for transformers."""
    warmup_factor: Fraction = 0.001
    """The warm-up begins at this multiple of the learning rate."""
    min_lr: NonNegative = 0.0
    """The learning rate at which the cosine ends."""
    per: Literal["step", "epoch"] = "step"
    """Whether the learning rate changes with every step or with every epoch."""
    iteration: Count | None = None
    """With `per: step`, the number of images in an iteration, several of which make a step, for a
    rate that counts iterations: a step has the rate of its first iteration, and the last step of an
    epoch that of its last iteration, as in DeiT-LT's code. Steps are counted if not given."""
    shift_cosine: bool = True
    """Whether the cosine begins after the warm-up; published recipes count it from the very first
    epoch."""
    milestones: tuple[Count, ...] = ()
    """For `step`: the numbers of epochs after which the learning rate changes."""
    factors: tuple[Positive, ...] = ()
    """For `step`: the factor that `lr` is multiplied by from each milestone on."""

    @model_validator(mode="after")
    def _check_steps(self) -> Schedule:
        if (self.name == "step") != bool(self.milestones or self.factors):
            raise ValueError(
                "milestones and factors belong to name: step, and it needs both, such as "
                "milestones: [160, 180], factors: [0.01, 0.0001]"
            )
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                f"{len(self.milestones)} milestones and {len(self.factors)} factors; "
                "there must be one factor for each milestone"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones are {list(self.milestones)}; they should rise")
        return self


class Training(Section):
    """The length of training, the batches, the precision and the choice of the best epoch."""

    epochs: Count
    """The number of passes over the training images."""
    batch_size: Count = 64
    """Images per optimizer step, over all devices and accumulated parts together."""
    accumulate: Count = 1
    """The number of parts that a batch is computed in (gradient accumulation), to save memory."""
    clip_grad: Positive | None = None
    """The largest norm of the gradient (gradient clipping); not limited if not given."""
    drop_last: bool = True
    """Whether an epoch's last batch is left out if it is not full."""
    selected_round: Count = 1
    """Images at an epoch's end that do not fill a multiple of this number are left out, as by the
    sampler of DeiT and timm for repeated augmentation, where it is 256; 1 keeps all."""
    ema: ProperFraction | None = None
    """The decay of a moving average of the weights (EMA), which is then evaluated in place of the
    weights; no average if not given. The weights themselves are kept beside it: `--without-ema`."""
    ema_warmup: bool = True
    """Whether the decay of the average rises with the steps, up to `ema`, as
    1 - (1 + step)^(-2/3) (timm's warm-up). If not, it is `ema` from the first step on, and a short
    run leaves much of the initial weights in the average."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The precision of the arithmetic: full, or mixed with bfloat16 or float16."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """The precision inside of matrix products of float32, as in
    `torch.set_float32_matmul_precision`: `high` lets NVIDIA GPUs use TF32, which is several times
    faster and keeps 10 bits of the mantissa instead of 23; `medium` lets them use bfloat16. It
    reaches the teachers in training, and no evaluation by other commands. Convolutions use TF32 on
    these GPUs in any case, which is PyTorch's default."""
    sync_batchnorm: bool = False
    """Whether batch norms take their statistics over all devices, not over each device's part of
    the batch. It needs GPUs; on one device there is nothing to synchronise. With `accumulate`, each
    part of the batch still has statistics of its own."""
    compile: bool = False
    """Whether to compile the models, which makes steps faster after a slow start. What was compiled
    is kept for later runs (in `$XDG_CACHE_HOME/vitrellis/compiled`, `~/.cache/vitrellis/compiled`
    by default), which then start sooner."""
    channels_last: bool = False
    """Whether to use the memory layout that suits convolutions, on CPUs as well as on GPUs. It
    reaches the teachers, too: set it for a ViT that a CNN guides."""
    checkpoint_minutes: NonNegative = 2.0
    """The least time in minutes between two checkpoints that the run can be resumed from."""
    early_stopping_patience: Count | None = None
    """The number of epochs without a better validation figure (`select_by`) after which training
    ends early; all epochs are trained if not given. The learning rate falls as for all epochs."""
    eval_every: Count = 1
    """The number of epochs between validations; the last epoch is always validated."""
    select_by: Literal["top1", "balanced_accuracy"] = "top1"
    """The validation figure that the best epoch is chosen by (model selection); the second is for
    unbalanced classes."""

    @model_validator(mode="after")
    def _check_batch_divides(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self


class Machine(Section):
    """The hardware that the run uses. It is not part of the run's identity."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The kind of device; `auto` takes a GPU if there is one."""
    devices: Count = 1
    """The number of devices."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several devices share a training. With `ddp`, each has the whole student. With `fsdp`
    (FSDP2), each has a part of its weights, gradients and moments, for students that do not fit
    into the memory of one; teachers are trained with `ddp`. A run can be continued with either."""
    workers: AutoOrIndex = "auto"
    """The number of processes that read images, if the dataset does not fit in memory; if it does,
    the number of threads that cut crops from photographs."""
    threads: Count | None = None
    """The number of processor threads of each process; torch decides if not given."""
    image_cache_gb: NonNegative = 20.0
    """The gigabytes (10^9 bytes) of decoded images that runs may leave in the cache folder
    (`$XDG_CACHE_HOME/vitrellis/pixels`, `~/.cache/vitrellis/pixels` by default) for later runs,
    which then begin at once; those that were used longest ago make room. 0 keeps none. Sets of less
    than 64 MiB are not kept, and nothing with `input.cache=false`."""
