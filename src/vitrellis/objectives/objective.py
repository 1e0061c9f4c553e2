"""The sum of the terms of a loss, and how to write a term.

The loss of a batch is `sum(weight(epoch) * term(signals))` over all terms. Values are recorded per
term, unweighted, by name. A term whose weight is 0 in an epoch is not computed, and nothing is
computed for it.

To write a term of your own, derive from `Term`. Its `forward` computes a scalar from `Signals`:

    class Caution(Term):
        "The negative entropy of the predictions, batch mean."

        def __init__(self, weight: float = 0.1) -> None:
            super().__init__("caution", weight=weight)

        def forward(self, signals: Signals) -> Tensor:
            log_probs = signals.logits.float().log_softmax(dim=-1)  # (B, K)
            return (log_probs.exp() * log_probs).sum(dim=-1).mean()

    objective = Objective([CrossEntropy(), Caution()])

A term that reads feature maps or the teacher says so with `needs=Needs(student_blocks=(3,))`; they
are then in `signals`. Its parameters and submodules, assigned in its constructor, are optimised and
checkpointed with the student. It returns its value without its weight.

A batch is computed in portions, on one device after the other and on several at once. The value of
a term is a mean over the images of a portion, and the mean over all portions is that of the batch.
A term in which images have weights of their own derives from `WeightedTerm`. One whose value
depends on which images are together, because it compares them with each other, says so in
`compares`.

To give the term a key in recipes, add a section (`term_sections.py`) to its file, and the section
to `TERMS` in `__init__.py`.

How we differ from the published code (github.com/lkhl/tiny-transformers), which assigns the total
once per kind of guidance: with two of them on, ours adds both.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.objectives.schedules import Constant, WeightSchedule

Head = Literal["class", "distillation"]
HEADS: tuple[Head, ...] = get_args(Head)


class Term(nn.Module, ABC):
    """One part of the loss.

    Args:
        name: The name of the term in logs and checkpoints.
        weight: A number, or a schedule over epochs.
        needs: Maps and logits that have to be computed for it, besides the student's logits.
        settings: Its settings in words, for the summary of a run.

    Attributes:
        key: Its key in recipes, for messages; its name if it has none.
        teacher: The name of the teacher that it learns from, where there are several.
        head: The head of the student that it trains.
        compares: What it compares with each other within a portion of a batch, in words, so that
            its value depends on the portions; empty if each image counts by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        weight: WeightSchedule | float,
        needs: Needs | None = None,
        settings: str = "",
    ) -> None:
        super().__init__()
        self.name = name
        self.weight = weight if isinstance(weight, WeightSchedule) else Constant(float(weight))
        self.needs = needs if needs is not None else Needs()
        self.settings = settings
        self.key = name
        self.teacher = "teacher"
        self.head: Head = "class"
        self.compares = ""

    @abstractmethod
    def forward(self, signals: Signals) -> Tensor:
        """The unweighted value, a scalar."""

    def without_gradient(self, num_classes: int) -> list[str]:
        """The settings by which it, or a part of it, teaches the student nothing, in words.

        Args:
            num_classes: The number of classes of the data.
        """
        del num_classes
        return []


class WeightedTerm(Term):
    """A term in which images have weights of their own, by whose sum it is divided.

    Its `forward` divides by the sum over the signals that it is given. Where these are a portion of
    a batch, the trainer asks for the sums of all portions first, on all devices, and scales the
    values by the share of each portion, so that value and gradient are those of the whole batch.
    """

    @abstractmethod
    def is_weighted(self, epoch: int) -> bool:
        """Whether the weights of images differ in this epoch, 0-based."""

    @abstractmethod
    def weight_sum(self, targets: Tensor, teacher_logits: Tensor | None, epoch: int) -> Tensor:
        """The sum of the weights of images, a scalar.

        Args:
            targets: `(B, K)` class probabilities.
            teacher_logits: `(B, K)` of its teacher, None if it needs none.
            epoch: 0-based.
        """


class FollowingTerm(Term):
    """A term that follows the student from step to step.

    Attributes:
        gather: Returns the rows of a tensor in all processes, in their order, in each of them.
    """

    gather: Callable[[Tensor], Tensor] = staticmethod(lambda rows: rows)

    @abstractmethod
    def end_step(self, student: nn.Module) -> None:
        """Tells the term that the student has changed."""


class ObjectiveValue(NamedTuple):
    """The loss of a batch and its parts.

    Attributes:
        total: The weighted sum, a scalar with a gradient.
        parts: The unweighted value of every term that ran, by name, detached.
        weighted: The summands of `total`, by the name of their term.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weighted: dict[str, Tensor]


class Objective(nn.Module):
    """The weighted sum of terms.

    Epochs are 0-based. The state of adaptive weights is part of `state_dict()`.

    Args:
        terms: At least one term; no two have the same name.

    Attributes:
        terms: The terms by name, in the order given.

    Raises:
        UsageError: If there is no term, or a name cannot be used.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        if not terms:
            raise UsageError("an objective needs at least one term, such as CrossEntropy()")
        for name, count in Counter(term.name for term in terms).items():
            if count > 1:
                raise UsageError(f"{count} terms are called {name!r}; give each its own name=")
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise UsageError(
                    f"a term cannot be called {name!r}: that is empty, has a dot in it, or is what "
                    "torch calls a part of every module. Try a plain word with an underscore"
                )
        self.terms = nn.ModuleDict({term.name: term for term in terms})

    def forward(
        self, signals: Signals, epoch: int, factors: Mapping[str, Tensor] | None = None
    ) -> ObjectiveValue:
        """The loss of a batch, or of a portion of it.

        Args:
            signals: The batch, with all that `needs(epoch)` lists.
            epoch: 0-based.
            factors: Factors of the values of terms, by name, which are 1 if not given: for a
                portion, see `WeightedTerm`.

        Raises:
            VitrellisError: If the weight of every term is 0 in this epoch.
        """
        active = self._active(epoch)
        if not active:
            raise VitrellisError(
                f"objective: the weight of every term ({', '.join(self.terms)}) is 0 in epoch "
                f"{epoch}, so there is nothing to learn. End training earlier, or keep a term on"
            )
        parts: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for term, weight in active:
            value: Tensor = term(signals.of_teacher(term.teacher))
            assert value.ndim == 0, f"term {term.name!r} returned {tuple(value.shape)}, no scalar"
            if factors and term.name in factors:
                value = value * factors[term.name]
            parts[term.name] = value.detach()
            weighted[term.name] = weight * value
        total = functools.reduce(torch.add, weighted.values())
        return ObjectiveValue(total, parts, weighted)

    def all_terms(self) -> list[Term]:
        """The values of `terms`, which torch types as modules."""
        return [cast(Term, term) for term in self.terms.values()]

    def term(self, name: str) -> Term:
        """The term of this name."""
        return cast(Term, self.terms[name])

    def needs(self, epoch: int) -> Needs:
        """The maps and logits that this epoch's terms need, those whose weight is not 0."""
        needs = (term.needs for term, _ in self._active(epoch))
        return functools.reduce(Needs.__or__, needs, Needs())

    def teacher_needs(self, epoch: int | None) -> dict[str, Needs]:
        """The needs for each teacher, by name; a teacher that nothing needs is left out.

        Args:
            epoch: None for all epochs together.
        """
        by_teacher: dict[str, Needs] = {}
        terms = self.all_terms() if epoch is None else [term for term, _ in self._active(epoch)]
        for term in terms:
            if term.needs.teacher_logits or term.needs.teacher_blocks:
                needs = by_teacher.get(term.teacher, Needs()) | term.needs
                by_teacher[term.teacher] = needs
        return by_teacher

    def weighted_terms(self, epoch: int) -> list[WeightedTerm]:
        """The active terms in which images have weights of their own in this epoch."""
        active = (term for term, _ in self._active(epoch))
        return [
            term for term in active if isinstance(term, WeightedTerm) and term.is_weighted(epoch)
        ]

    def weights(self, epoch: int) -> dict[str, float]:
        """The weight of every term in this epoch, by name."""
        return {term.name: term.weight(epoch) for term in self.all_terms()}

    def end_step(self, student: nn.Module) -> None:
        """Tells terms that follow the student that it has changed."""
        for term in self.all_terms():
            if isinstance(term, FollowingTerm):
                term.end_step(student)

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> None:
        """Tells adaptive weights how the epoch went.

        Args:
            epoch: The epoch that ended.
            means: Mean unweighted value over its images of every term that ran, by name.
        """
        for term, _ in self._active(epoch):
            assert term.name in means, f"no mean of term {term.name!r} for epoch {epoch}"
            term.weight.end_epoch(epoch, means[term.name])

    def describe(self) -> list[str]:
        """One line for each term: its name, weight and settings."""
        times = "\N{MULTIPLICATION SIGN}"
        return [
            f"{term.name} {times} {term.weight.describe()}"
            + (f" ({term.settings})" if term.settings else "")
            for term in self.all_terms()
        ]

    def get_extra_state(self) -> dict[str, dict[str, Any]]:
        """The state of every weight by the name of its term: numbers, lists and None only."""
        return {term.name: term.weight.state_dict() for term in self.all_terms()}

    def set_extra_state(self, state: dict[str, dict[str, Any]]) -> None:
        """Restores what `get_extra_state` returned.

        Raises:
            VitrellisError: If it is the state of other terms.
        """
        if state.keys() != set(self.terms):
            raise VitrellisError(
                f"objective: the checkpoint's terms are {', '.join(state)}, "
                f"the recipe's are {', '.join(self.terms)}"
            )
        for term in self.all_terms():
            term.weight.load_state_dict(state[term.name])

    def _active(self, epoch: int) -> list[tuple[Term, float]]:
        """The terms whose weight is not 0 in this epoch, each with its weight."""
        weighted = ((term, term.weight(epoch)) for term in self.all_terms())
        return [(term, weight) for term, weight in weighted if weight != 0]


class TeacherOutput(NamedTuple):
    """A teacher's logits and feature maps for a batch.

    Attributes:
        logits: `(B, K)`, None where no term needs them.
        maps: The map of each block, `(B, C, H, W)`, by block index.
    """

    logits: Tensor | None
    maps: Mapping[int, Tensor]


@dataclass(frozen=True)
class Signals:
    """One batch with all that the terms of an objective may read.

    Attributes:
        logits: `(B, K)` of the student's classifier.
        targets: `(B, K)` class probabilities, one-hot or mixed, without label smoothing.
        distillation_logits: `(B, K)` of the student's distillation head, None if it has none.
        student_maps: The map of each block of the student, `(B, C, H, W)`, by block index.
        teacher_logits: `(B, K)` of the term's teacher, None if the term needs none.
        teacher_maps: The map of each block of the term's teacher, `(B, C, H, W)`, by block index.
        second_view: `(B, C, H, W)` images, augmented once more; None if no term needs them.
        epoch: The 0-based epoch.
        teacher_outputs: The outputs of all teachers, by name, if there are several.
    """

    logits: Tensor
    targets: Tensor
    distillation_logits: Tensor | None = None
    student_maps: Mapping[int, Tensor] = field(default_factory=dict)
    teacher_logits: Tensor | None = None
    teacher_maps: Mapping[int, Tensor] = field(default_factory=dict)
    second_view: Tensor | None = None
    epoch: int = 0
    teacher_outputs: Mapping[str, TeacherOutput] = field(default_factory=dict)

    def of_teacher(self, name: str) -> Signals:
        """The signals for a term that learns from the teacher of this name."""
        if name not in self.teacher_outputs:
            return self
        logits, maps = self.teacher_outputs[name]
        return replace(self, teacher_logits=logits, teacher_maps=maps)


@dataclass(frozen=True)
class Needs:
    """The maps and logits that a term needs beside the student's logits. `a | b` is the union.

    Attributes:
        student_blocks: Blocks of the student whose maps are needed.
        teacher_blocks: Blocks of the teacher whose maps are needed.
        teacher_logits: Whether the teacher's logits are needed.
    """

    student_blocks: tuple[int, ...] = ()
    teacher_blocks: tuple[int, ...] = ()
    teacher_logits: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            student_blocks=_union(self.student_blocks, other.student_blocks),
            teacher_blocks=_union(self.teacher_blocks, other.teacher_blocks),
            teacher_logits=self.teacher_logits or other.teacher_logits,
        )


def _union(first: Iterable[int], second: Iterable[int]) -> tuple[int, ...]:
    """Each block once, in ascending order."""
    return tuple(sorted({*first, *second}))
