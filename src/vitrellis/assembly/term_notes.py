"""Notes on terms for a run's summary: which teach nothing, depend on portions, or lack tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrellis.objectives import Term
from vitrellis.recipe.pruning_section import Pruning


def notes_on_gradients(terms: Sequence[Term], *, num_classes: int, epochs: int) -> list[str]:
    """The terms, or parts of them, that can have no gradient whatever the images are.

    A cross-entropy of weight 0 is not noted: that is how it is turned off.

    Args:
        terms: The terms of the run.
        num_classes: The number of classes of the data.
        epochs: The number of epochs of the run.
    """
    notes = []
    for term in terms:
        is_off = all(term.weight(epoch) == 0 for epoch in range(epochs))
        if is_off and term.key != "objective.cross_entropy":
            notes.append(
                f"{term.key}.weight: 0 in every epoch, so that the term teaches the student "
                "nothing. Give it a weight, or leave it out"
            )
        elif not is_off:
            notes += term.without_gradient(num_classes)
    return notes


def notes_on_portions(
    terms: Sequence[Term], models: Mapping[str, nn.Module], *, accumulate: int, world_size: int
) -> list[str]:
    """What depends on the portions in which a batch is computed, if there are several.

    Every other value and gradient is that of the whole batch.

    Args:
        terms: The terms of the run.
        models: The models in train mode, by their names in words.
        accumulate: The portions on each device.
        world_size: The number of devices.
    """
    if accumulate * world_size == 1:
        return []
    compared = [f"{term.key} (compares {term.compares})" for term in terms if term.compares]
    for name, model in models.items():
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        # synchronised over devices, they see all of a batch that each device computes at once
        if any(accumulate > 1 or not isinstance(norm, nn.SyncBatchNorm) for norm in norms):
            compared.append(f"the batch norms of {name}, which average over images")
    keys = ["training.accumulate"] * (accumulate > 1) + ["machine.devices"] * (world_size > 1)
    return [
        f"each of the {accumulate * world_size} portions of a batch is by itself in {what}, so "
        f"that the result depends on {' and '.join(keys)}"
        for what in compared
    ]


def notes_on_pruned_maps(terms: Sequence[Term], pruning: Pruning, epochs: int) -> list[str]:
    """The terms that read maps of the student in which places are empty, while tokens are pruned.

    A weight that adapts to the losses is taken to stay on.

    Args:
        terms: The terms of the run.
        pruning: The recipe's section.
        epochs: The number of epochs of the run.
    """
    start, first = pruning.from_epoch, pruning.layers[0]
    notes = []
    for term in terms:
        behind = [block for block in term.needs.student_blocks if block >= first]
        if behind and any(term.weight(epoch) for epoch in range(start, epochs)):
            blocks = f"block{'s' * (len(behind) > 1)} {', '.join(map(str, behind))}"
            ended = "pruning.from_epoch, and end it there"
            if start > 0:
                ended = f"{term.key}.weight={{value: {term.weight(0):g}, off_after: {start}}}"
            notes.append(
                f"{term.key}: reads maps of {blocks}, where tokens are missing from epoch "
                f"{start + 1} on, as layer {first} leaves some out; their places are 0. To guide "
                f"first and prune then: {ended}"
            )
    return notes
