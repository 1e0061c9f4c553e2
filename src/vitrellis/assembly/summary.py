"""The summary of a run that is printed before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.fabric import Fabric

from vitrellis.analysis.cost import count_macs
from vitrellis.assembly.pretrained import notes_on_weights, pretrained_notes
from vitrellis.assembly.term_notes import (
    notes_on_gradients,
    notes_on_portions,
    notes_on_pruned_maps,
)
from vitrellis.data.canvas import OwnShape
from vitrellis.data.loader import TrainLoader
from vitrellis.data.source import UNBALANCED, Source
from vitrellis.models.support.frozen import frozen_parts, keep_frozen_norms
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.recipe import Recipe, effective_lr
from vitrellis.runs.results import Results
from vitrellis.teachers.evaluation import evaluate_teachers
from vitrellis.training.gathering import gathering

if TYPE_CHECKING:
    from vitrellis.assembly.parts import Parts

INITIAL_SHARE = 0.01
"""The share of the initial weights in their moving average from which a note says so."""


def announcement(parts: Parts, fabric: Fabric) -> list[str]:
    """The lines of the summary, with every derived number resolved."""
    recipe, source, training = parts.recipe, parts.source, parts.recipe.training
    counts = source.class_counts
    splits = ", ".join(f"{len(split):,} {name}" for name, split in source.splits.items())
    parameters = sum(p.numel() for p in parts.guided.student.parameters())
    terms = parts.guided.objective.describe()
    height, width = parts.preprocessing.img_size
    lines = [
        f"{recipe.name}",
        f"  data       {source.name}: {splits} images, {source.num_classes} classes "
        f"({int(counts.min()):,} to {int(counts.max()):,} training images each){_sampler(recipe)}",
        *(
            f"             note: {note}"
            for note in (*source.notes, *_notes_on_classes(recipe, source))
        ),
        f"  model      {recipe.model.name}, {parameters:,} parameters, "
        f"{height} x {width} pixels, seed {recipe.seed}",
        *(f"             note: {note}" for note in pretrained_notes(recipe, parts.preprocessing)),
        *_start(parts),
        f"  objective  {terms[0]}",
        *(f"             + {term}" for term in terms[1:]),
        *(f"             {note}" for note in _notes_on_terms(parts, fabric)),
        *_last_phase(recipe),
        *_pruning(parts),
        f"  augmented  {recipe.augmentation.summary()}",
        *(f"             {note}" for note in _photographs(parts.loader)),
        f"  optimizer  {recipe.optimizer.name}, lr {effective_lr(recipe):.4g}{_scaled(recipe)}, "
        f"weight decay {recipe.optimizer.weight_decay:g}{_decayed(recipe)}{_layers(recipe)}"
        f"{_sharpness(recipe)}",
        f"  training   {_count(training.epochs, 'epoch')} of "
        f"{_count(parts.loader.steps_per_epoch, 'step')}, batch "
        f"{parts.loader.batch_size}, {training.precision}{_inside(recipe, fabric.device)}, "
        f"{fabric.world_size} x {fabric.device.type}{_synchronized(recipe, fabric)}"
        f"{_choice(recipe, source)}",
        *_average(recipe, training.epochs * parts.loader.steps_per_epoch),
    ]
    if source.val is not None:
        validation = parts.evaluation(source.val)
        lines += evaluate_teachers(
            parts.teachers, validation, source.class_names, gathering(fabric)
        )
    return lines


def warning_lines(results: Results) -> list[str]:
    """A line for each reason to think that a finished run has learned nothing.

    Args:
        results: The content of `results.json`.
    """
    split = "validation" if results.best.test is None else "test"
    return [f"warning: {results.recipe}, {split} images: {warning}" for warning in results.warnings]


def _photographs(loader: TrainLoader) -> list[str]:
    """What random crops are cut from, unless it is small images of one size."""
    if not isinstance(loader.canvas, OwnShape):
        return []
    place = "held in memory" if loader.is_held else "read from their files in every epoch"
    place = "held decoded in the cache folder" if loader.is_mapped else place
    covered = loader.canvas.covered
    reduced = ", large ones reduced to cover {} x {} pixels".format(*covered) if covered else ""
    is_squashed = loader.transform.geometry.ratio_of == "image"
    squashed = "; squashed as in evaluation" if is_squashed else ""
    return [f"cut from photographs {place}{reduced}{squashed}"]


def _average(recipe: Recipe, steps: int) -> list[str]:
    """The decay of the moving average, and what is left in it of the initial weights."""
    decay = recipe.training.ema
    if decay is None:
        return []
    if recipe.training.ema_warmup:
        ends = 1 - steps ** (-2 / 3)  # as timm computes it for the last step
        rises = f"rises to {ends:.4g} in {steps:,} steps" if ends < decay else "after a warm-up"
        return [f"  average    of the weights is evaluated, decay {decay:g}, {rises}"]
    lines = [f"  average    of the weights is evaluated, decay {decay:g} without warm-up"]
    left = decay**steps
    if left > INITIAL_SHARE:
        lines.append(
            f"             note: after all {steps:,} steps, {100 * left:.1f} % of the average are "
            "still the initial weights; training.ema_warmup=true, or a smaller training.ema"
        )
    return lines


def _inside(recipe: Recipe, device: torch.device) -> str:
    """The precision inside of matrix products and convolutions, which NVIDIA GPUs may lower."""
    matmul = recipe.training.matmul_precision
    if device.type != "cuda":
        return "" if matmul == "highest" else f" (matrix products: {matmul})"
    convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "highest"
    return f" (matrix products: {matmul}, convolutions: {convolutions})"


def _synchronized(recipe: Recipe, fabric: Fabric) -> str:
    if fabric.world_size == 1:
        return ""
    shared = ", batch norms synchronised" if recipe.training.sync_batchnorm else ""
    return f", weights shared (FSDP2){shared}" if recipe.machine.strategy == "fsdp" else shared


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _sampler(recipe: Recipe) -> str:
    sampler = recipe.data.sampler
    return "" if sampler == "uniform" else f", {sampler} sampler"


def _choice(recipe: Recipe, source: Source) -> str:
    """The figure that selects the best epoch, unless it is plain accuracy."""
    if source.val is None or recipe.training.select_by == "top1":
        return ""
    return "; the best epoch is chosen by class-balanced accuracy"


def _scaled(recipe: Recipe) -> str:
    """The batch size that the learning rate is scaled from, if it is scaled."""
    per = recipe.optimizer.lr_per_batch
    return "" if per is None else f" ({recipe.optimizer.lr:g} for a batch of {per})"


def _decayed(recipe: Recipe) -> str:
    return " of all parameters" if recipe.optimizer.decay_all else ""


def _layers(recipe: Recipe) -> str:
    decay = recipe.optimizer.layer_decay
    return "" if decay == 1 else f", lr times {decay:g} from layer to layer towards the input"


def _start(parts: Parts) -> list[str]:
    """What the run starts from, and what stays as it is."""
    init, student = parts.recipe.init, parts.guided.student
    lines = []
    if init.pretrained:
        lines.append("  starts     from timm's published weights")
    elif init.weights is not None:
        written = "" if init.source is None else f", as {init.source} wrote them"
        lines.append(f"  starts     from {init.weights}{written}")
        notes = notes_on_weights(parts.recipe, parts.preprocessing)
        lines += [f"             note: {note}" for note in notes]
    frozen = frozen_parts(student)
    if frozen:
        fixed = sum(p.numel() for p in student.parameters() if not p.requires_grad)
        parts_in_words = ", ".join(frozen if len(frozen) <= 6 else [*frozen[:4], "...", frozen[-1]])
        lines.append(f"  frozen     {parts_in_words}: {fixed:,} parameters stay as they are")
        count = keep_frozen_norms(student)
        if count:
            norms = _count(count, "batch norm")
            lines.append(
                f"             {norms} there in eval mode, with the statistics of the start"
            )
    return lines


def _sharpness(recipe: Recipe) -> str:
    sam = recipe.optimizer.sam
    if sam is None:
        return ""
    radii = [f"{rho:g}" + (f" from epoch {epoch + 1}" if epoch else "") for epoch, rho in sam.steps]
    return f", SAM rho {', '.join(radii)}"


def _notes_on_classes(recipe: Recipe, source: Source) -> list[str]:
    """Notes on classes without validation images, and on class sizes that differ much."""
    counts = source.class_counts
    notes = []
    if source.val is not None:
        seen = torch.bincount(source.val.labels, minlength=source.num_classes)
        unseen = [name for name, n in zip(source.class_names, seen.tolist(), strict=True) if n == 0]
        if unseen:
            others = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
            notes.append(f"no validation image of {', '.join(unseen[:3])}{others}")
    if not recipe.handles_imbalance and counts.max() >= UNBALANCED * counts.min():
        notes.append("class sizes differ much; balance=true gives every class the same influence")
    return notes


def _notes_on_terms(parts: Parts, fabric: Fabric) -> list[str]:
    """Notes on terms that teach nothing, and on those that depend on the portions of a batch."""
    training, guided = parts.recipe.training, parts.guided
    terms = guided.objective.all_terms()
    drifting = parts.teachers.drifting()
    models = {"the student": guided.student, **{f"the {name}": drifting[name] for name in drifting}}
    silent = notes_on_gradients(terms, num_classes=parts.source.num_classes, epochs=training.epochs)
    dependent = notes_on_portions(
        terms, models, accumulate=training.accumulate, world_size=fabric.world_size
    )
    notes = [f"warning: {note}" for note in silent] + [f"note: {note}" for note in dependent]
    pruning = parts.recipe.pruning
    if pruning is not None:
        pruned = notes_on_pruned_maps(terms, pruning, training.epochs)
        notes += [f"note: {note}" for note in pruned]
    return notes


def _pruning(parts: Parts) -> list[str]:
    """The layers that leave tokens behind, their schedule, and the multiply-adds that it saves."""
    pruning, student = parts.recipe.pruning, parts.guided.student
    if pruning is None:
        return []
    assert isinstance(student, TokenReduction), "built with the arguments of the section"
    shape = (parts.preprocessing.channels, *parts.preprocessing.img_size)
    macs = []
    for rate in (1.0, pruning.keep_rate):
        student.set_keep_rate(rate)
        macs.append(count_macs(student, shape) / 1e6)
    return [
        f"  pruning    {pruning.describe(parts.recipe.pruning_levels)}",
        f"             {macs[0]:,.0f} million multiply-adds per image, {macs[1]:,.0f} in the end; "
        "`vitrellis bench` measures the speed",
    ]


def _last_phase(recipe: Recipe) -> list[str]:
    """The epoch in which the last phase begins, and whether mixing stops there."""
    if recipe.deferred is None:
        return []
    epochs = recipe.training.epochs
    first = recipe.deferred.first_epoch(epochs) + 1
    augmentation = recipe.augmentation
    stops = (augmentation.mixup or augmentation.cutmix) and not recipe.deferred.mixing
    end = ", without mixing images" if stops else ""
    return [f"  deferred   from epoch {first} of {epochs} on{end}"]
