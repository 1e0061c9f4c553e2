"""The portions in which a batch is computed, one after the other on each of several devices.

The loss and its gradient are those of the whole batch: each portion counts by its images, and in a
term with weights of its own by these, which are summed over all portions and devices first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from vitrellis.data.loader import Batch
from vitrellis.objectives import Needs, Objective, TeacherOutput, WeightedTerm
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import StepInputs


class Portion(NamedTuple):
    """A part of this process's share of a batch.

    Attributes:
        batch: The images.
        inputs: The other inputs of the loss.
        is_last: Whether no other follows in this process.
    """

    batch: Batch
    inputs: StepInputs
    is_last: bool


class Portions:
    """Splits batches, and asks the teachers about each portion.

    In the first batch in which a term takes part, it checks that the term has a gradient.

    Args:
        fabric: Fabric, launched.
        objective: The weighted sum of terms.
        teachers: The teachers, possibly none.
        count: The number of portions of a process's share of a batch.
        warn: Called with a line for each term that teaches the student nothing.
    """

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        teachers: Teachers,
        count: int,
        warn: Callable[[str], None],
    ) -> None:
        self._fabric = fabric
        self._objective = objective
        self._teachers = teachers
        self._count = count
        self._warn = warn
        self._checked: set[str] = set()

    def __call__(self, batch: Batch, needs: Mapping[str, Needs], epoch: int) -> Iterator[Portion]:
        """The portions of a batch; each is to be used before the next is asked for.

        Teachers are asked about one portion at a time, unless a term weights images by what its
        teacher says: then about all of them first, and their outputs are kept for this batch.

        Args:
            batch: This process's share of the batch.
            needs: The outputs to compute, by the teacher's name.
            epoch: 0-based.
        """
        chunks = batch.chunks(self._count)
        is_whole = len(chunks) == 1 and self._fabric.world_size == 1
        weighted = [] if is_whole else self._objective.weighted_terms(epoch)
        kept: list[dict[str, TeacherOutput]] = []
        if any(term.needs.teacher_logits for term in weighted):
            kept = [self._ask(chunk, needs) for chunk in chunks]
        factors = self._factors(weighted, chunks, kept, epoch)
        for number, chunk in enumerate(chunks):
            outputs = kept[number] if kept else self._ask(chunk, needs)
            inputs = StepInputs(
                chunk.targets,
                epoch,
                outputs,
                chunk.second_view,
                {name: of_term[number] for name, of_term in factors.items()},
                silent={} if self._is_unchecked(epoch) else None,
            )
            yield Portion(chunk, inputs, number == len(chunks) - 1)
            if inputs.silent is not None:
                self._report(inputs.silent, epoch)

    def _ask(self, chunk: Batch, needs: Mapping[str, Needs]) -> dict[str, TeacherOutput]:
        with self._fabric.autocast():
            outputs: dict[str, TeacherOutput] = self._teachers(chunk, needs)
        return outputs

    def _factors(
        self,
        terms: Sequence[WeightedTerm],
        chunks: Sequence[Batch],
        kept: Sequence[Mapping[str, TeacherOutput]],
        epoch: int,
    ) -> dict[str, Tensor]:
        """For each weighted term, the factor of its value in each portion, `(portions,)`.

        It is the portion's share of all weights, divided by its share of all images, by which the
        trainer multiplies the sum of all terms.
        """
        if not terms:
            return {}
        rows = []
        for term in terms:
            logits = [outputs[term.teacher].logits for outputs in kept if term.needs.teacher_logits]
            rows.append(
                torch.stack(
                    [
                        term.weight_sum(chunk.targets, logits[i] if logits else None, epoch)
                        for i, chunk in enumerate(chunks)
                    ]
                )
            )
        sums = torch.stack(rows)  # (terms, portions)
        totals = self._fabric.all_reduce(sums.sum(dim=1), reduce_op="sum")
        assert isinstance(totals, Tensor)
        images = sums.new_tensor([len(chunk) / chunk.size for chunk in chunks])
        factors = sums / totals[:, None] / images
        return {term.name: row for term, row in zip(terms, factors, strict=True)}

    def _is_unchecked(self, epoch: int) -> bool:
        return any(
            weight and name not in self._checked
            for name, weight in self._objective.weights(epoch).items()
        )

    def _report(self, silent: Mapping[str, str], epoch: int) -> None:
        """Notes the terms that were checked for the first time and have no gradient."""
        active = [name for name, weight in self._objective.weights(epoch).items() if weight]
        for name in active:
            if name in silent and name not in self._checked:
                self._warn(
                    f"{self._objective.term(name).key}: its gradient at the student's outputs is "
                    f"{silent[name]} in the first batch of epoch {epoch + 1}, so that the term "
                    "cannot teach the student anything. Change its settings, or leave it out"
                )
        self._checked |= set(active)
