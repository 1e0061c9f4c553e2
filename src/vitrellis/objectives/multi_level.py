"""Multi-level logit distillation: single predictions, and how images and classes are alike in them.

Paper: Multi-level Logit Distillation (CVPR 2023). Original code:
https://github.com/Jin-Ying/Multi-Level-Logit-Distillation, and with standardized logits
https://github.com/sunshangquan/logit-standardization-KD

Three levels, each summed over several temperatures: the divergence of predictions (instance), the
squared differences between the `(B, B)` products of predictions of all images of a batch (batch),
and between their `(K, K)` products over all classes (class). Standardization is for the first.

How we differ from the published code: `form="code"` is what it computes. There, masks that were
to select unsure images and rare classes multiply losses that are averaged already, so that they
scale them by the share selected; and of the strongly augmented view the correlations are thrown
away. `form="paper"` is the three levels as they are written, without masks. With one view of the
images, as everywhere here, `form="code"` takes it for both. The second and the third level, and the
masks, are of the images that are together in a portion of a batch (`training.accumulate`, devices),
as they are in the published code on several devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import torch
from pydantic import Field
from torch import Tensor

from vitrellis.errors import UsageError
from vitrellis.objectives.distillation import (
    LogitSection,
    LogitTerm,
    check_choice,
    check_logits,
    check_temperature,
    soft_distillation,
)
from vitrellis.objectives.objective import Head, Signals
from vitrellis.objectives.precision import full_precision, to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.standardization import Sigma, Standardize
from vitrellis.settings import Positive

Form = Literal["paper", "code"]
FORMS: tuple[Form, ...] = get_args(Form)


class Levels(NamedTuple):
    """The three parts, scalars.

    Attributes:
        instance: The loss of single predictions.
        batch: The loss of the images' similarity.
        classes: The loss of the classes' similarity.
    """

    instance: Tensor
    batch: Tensor
    classes: Tensor


def batch_correlation(student_probs: Tensor, teacher_probs: Tensor) -> Tensor:
    """Squared differences between the products of all pairs of images, over the batch size.

    Args:
        student_probs: `(B, K)`.
        teacher_probs: `(B, K)`.

    Returns:
        A scalar.
    """
    with full_precision(student_probs):
        difference = teacher_probs @ teacher_probs.T - student_probs @ student_probs.T  # (B, B)
    return difference.square().sum() / len(student_probs)


def class_correlation(student_probs: Tensor, teacher_probs: Tensor) -> Tensor:
    """Squared differences between the products of all pairs of classes, over their number.

    Args:
        student_probs: `(B, K)`.
        teacher_probs: `(B, K)`.

    Returns:
        A scalar.
    """
    return batch_correlation(student_probs.T, teacher_probs.T)


def multi_level_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    compared: tuple[Tensor, Tensor] | None = None,
) -> Levels:
    """The three levels as in the paper, each summed over the temperatures.

    Args:
        student_logits: `(B, K)`.
        teacher_logits: `(B, K)`. They get no gradient.
        temperatures: All temperatures that soften predictions.
        compared: Logits that the first level compares in place of these, such as standardized ones.

    Raises:
        UsageError: If the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    of_instance = (student_logits, teacher_logits) if compared is None else compared
    parts = []
    for temperature in temperatures:
        student_probs = _softened(student_logits, temperature)
        teacher_probs = _softened(teacher_logits.detach(), temperature)
        parts.append(
            torch.stack(
                [
                    soft_distillation(*of_instance, temperature=temperature),
                    batch_correlation(student_probs, teacher_probs),
                    class_correlation(student_probs, teacher_probs),
                ]
            )
        )
    return Levels(*torch.stack(parts).sum(dim=0).unbind())


def published_multi_level_distillation(
    weak: tuple[Tensor, Tensor],
    strong: tuple[Tensor, Tensor],
    teacher_weak_logits: Tensor,
    *,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    plain: tuple[Tensor, Tensor] | None = None,
) -> Levels:
    """The three levels as the published code adds them up.

    Args:
        weak: `(B, K)` of student and teacher, weakly augmented images; standardized or not.
        strong: `(B, K)` of student and teacher, strongly augmented images.
        teacher_weak_logits: `(B, K)`, never standardized; the masks are made of them.
        temperatures: The first is the base temperature. The strong view takes part in the first
            three only; in the others the weak one counts once more.
        plain: The weak view's logits that correlations are made of, in place of `weak`.

    Raises:
        UsageError: If the shapes differ.
    """
    check_logits(*weak)
    levels = multi_level_distillation(
        *(weak if plain is None else plain), temperatures=temperatures, compared=weak
    )
    again = [
        soft_distillation(*(strong if index < 3 else weak), temperature=temperature)
        for index, temperature in enumerate(temperatures)
    ]
    teacher_probs = _softened(teacher_weak_logits.detach(), 1.0)
    images = _share_up_to_median(teacher_probs.amax(dim=1))
    classes = _share_up_to_median(teacher_probs.sum(dim=0))
    return Levels(
        instance=images * levels.instance + torch.stack(again).sum(),
        batch=images * levels.batch,
        classes=classes * levels.classes,
    )


class MLKD(LogitTerm):
    """The student imitates predictions, and how images and classes are alike in them.

    Args:
        temperatures: See `multi_level_distillation`; with `form="code"` the first is its base.
        form: "paper" or "code": see the module.
        standardize: Z-score both sides' logits for the first level; "auto": unless there are two
            classes.
        sigma: See `standardize`.
        head: Which of the student's heads learns from the teacher.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """

    silenced = "its first level teaches"

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        form: Form = "paper",
        standardize: Standardize = "auto",
        sigma: Sigma = "sample",
        head: Head = "class",
        weight: WeightSchedule | float = 1.0,
        name: str = "mlkd",
    ) -> None:
        check_choice(name, "form", form, FORMS)
        check_temperature(name, *temperatures)
        if not temperatures:
            raise UsageError(f"{name}: no temperatures; it needs at least one")
        listed = ", ".join(f"{temperature:g}" for temperature in temperatures)
        super().__init__(
            name,
            weight=weight,
            head=head,
            standardize=standardize,
            sigma=sigma,
            settings=f"as in the {form}, T {listed}",
        )
        self.compares = "all pairs of images, and of classes over the images"
        self.temperatures = tuple(temperatures)
        self.form: Form = form

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar: the sum of the three levels.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        plain = self.plain_logits(signals)
        compared = self.compared_logits(signals)
        if self.form == "paper":
            levels = multi_level_distillation(
                *plain, temperatures=self.temperatures, compared=compared
            )
        else:
            levels = published_multi_level_distillation(
                compared, compared, plain[1], temperatures=self.temperatures, plain=plain
            )
        return torch.stack(levels).sum()


class MLKDSection(LogitSection):
    """Imitates single predictions, and how images and classes resemble each other in them.

    Source: Jin et al., Multi-level Logit Distillation, CVPR 2023.
    """

    key: ClassVar[str] = "mlkd"
    term: ClassVar[Callable[..., LogitTerm]] = MLKD

    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4.0, 3.0, 5.0, 2.0, 6.0)
    """All temperatures that soften predictions; with `form: code`, the first is the base."""
    form: Form = "paper"
    """The three levels as the paper writes them, or as the published code scales them."""


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return (to_float32(logits) / temperature).softmax(dim=-1)


def _share_up_to_median(values: Tensor) -> Tensor:
    """The share of `(N,)` values that are at most the lower of their medians, a scalar."""
    return (values <= values.median()).to(values.dtype).mean()
