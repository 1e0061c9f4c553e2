"""The figures of a run as typed values: a row for each epoch, the final results, the data.

`to_json` gives the content of the file. Files of older versions, which lack some keys, are read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from vitrellis.data.source import CheckedImages
from vitrellis.errors import VitrellisError

T = TypeVar("T")


@dataclass(frozen=True)
class EpochRow:
    """The figures of one epoch: a line of `metrics.jsonl`.

    Attributes:
        epoch: The number of the epoch, 0-based.
        step: The optimizer steps of the run so far.
        seconds: The seconds in training steps of the run so far.
        lr: The learning rate of the body at the last step.
        images_per_second: The speed of this epoch's training steps.
        loss: The mean of the weighted sum of all terms.
        parts: The mean of each term, unweighted.
        weights: The weight of each term.
        train_top1: The accuracy on the training images, as they were augmented.
        val_top1: The validation accuracy; None if this epoch was not validated.
        val_balanced: The class-balanced validation accuracy; None likewise.
        val_loss: The mean cross-entropy of the validation images; None likewise.
        keep_rate: The keep rate of token pruning at the last step, with which the epoch was
            validated; None without a schedule of it.
        waiting: The share of the epoch's seconds in training steps that its first process waited
            for batches: for images to be read and cut and, on a CPU, to be augmented.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    images_per_second: float
    loss: float
    parts: Mapping[str, float]
    weights: Mapping[str, float]
    train_top1: float
    val_top1: float | None = None
    val_balanced: float | None = None
    val_loss: float | None = None
    keep_rate: float | None = None
    waiting: float | None = None

    def to_json(self) -> dict[str, object]:
        """The line's content; what is None is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class GroupFigures:
    """The accuracy of a group of classes.

    Attributes:
        accuracy: The mean recall of its classes; None if no image is of one of them.
    """

    accuracy: float | None


@dataclass(frozen=True)
class GroupingFigures:
    """The accuracies of head, mid and tail classes, and the rule that tells them apart.

    Attributes:
        by: The rule, in a few words.
        head: The classes with many training images.
        mid: The classes between.
        tail: The classes with few training images.
    """

    by: str
    head: GroupFigures
    mid: GroupFigures
    tail: GroupFigures

    @property
    def accuracies(self) -> dict[str, float | None]:
        """The accuracy of each group, by its name."""
        return {
            "head": self.head.accuracy,
            "mid": self.mid.accuracy,
            "tail": self.tail.accuracy,
        }


@dataclass(frozen=True)
class SplitFigures:
    """The figures of a split as fractions: the main ones, and everything that was computed.

    Attributes:
        top1: The share of images whose likeliest class is right.
        balanced_accuracy: The class-balanced accuracy.
        macro_f1: The mean of the classes' F1.
        groups: Head, mid and tail classes; empty if all classes have about as many images.
        everything: All figures, under the keys of `vitrellis eval --json`.
    """

    top1: float
    balanced_accuracy: float
    macro_f1: float
    groups: tuple[GroupingFigures, ...] = ()
    everything: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, values: dict[str, Any], file: Path) -> Self:
        """The figures of a dictionary with the keys of `vitrellis eval --json`."""
        return parse(cls, values | {"everything": values}, file)


@dataclass(frozen=True)
class CheckpointFigures:
    """The figures of the best or of the last epoch.

    Attributes:
        epoch: The number of the epoch, 0-based; None if no epoch was chosen.
        val_top1: The validation accuracy; None if it was not measured.
        val_balanced: The class-balanced validation accuracy; None if it was not measured.
        test: The figures of the test images; None if there are none.
    """

    epoch: int | None
    val_top1: float | None = None
    val_balanced: float | None = None
    test: SplitFigures | None = None

    def to_json(self) -> dict[str, object]:
        """The checkpoint's part of `results.json`."""
        values: dict[str, object] = {"epoch": self.epoch, "val_top1": self.val_top1}
        if self.val_balanced is not None:
            values["val_balanced"] = self.val_balanced
        if self.test is not None:
            values["test"] = dict(self.test.everything)
        return values


@dataclass(frozen=True, kw_only=True)
class Results:
    """The final figures of a run: `results.json`.

    Attributes:
        recipe: The name of the recipe.
        model: The name of the model.
        parameters: The number of the student's parameters.
        seed: The seed of the run.
        epochs: The number of epochs.
        seconds: The seconds in training steps; a guided student's include its teacher's forward
            passes, not the teacher's training.
        images_per_second: The speed over all training steps; None if there were none.
        select_by: The figure that the best epoch was chosen by.
        warnings: Says so if the best model is not better than the largest class, or near chance, on
            the test images, or on the validation images if there are no test images.
        best: The epoch that validation chose.
        last: The last epoch.
        without_ema: The weights of the last epoch, where the others are of their moving average;
            None if there is no average.
    """

    recipe: str
    model: str
    parameters: int
    seed: int
    epochs: int
    seconds: float
    images_per_second: float | None
    select_by: Literal["top1", "balanced_accuracy"] = "top1"
    warnings: tuple[str, ...] = ()
    best: CheckpointFigures
    last: CheckpointFigures
    without_ema: CheckpointFigures | None = None

    def to_json(self) -> dict[str, object]:
        """The file's content."""
        parts = {"best": self.best, "last": self.last, "without_ema": self.without_ema}
        kept = {name: figures.to_json() for name, figures in parts.items() if figures is not None}
        return {key: value for key, value in asdict(self).items() if key not in parts} | kept

    @classmethod
    def from_json(cls, values: object, file: Path) -> Self:
        """The results that a file holds.

        Raises:
            VitrellisError: If a key is missing or wrong, naming the file and the key.
        """
        if isinstance(values, dict):
            values = dict(values)
            for name in ("best", "last", "without_ema"):
                match values.get(name):
                    case {"test": dict(test)}:
                        values[name] = values[name] | {"test": test | {"everything": test}}
        return parse(cls, values, file)


@dataclass(frozen=True)
class RunData:
    """The images that a run was trained on: `data.json`.

    Attributes:
        fingerprint: A digest of the images; None if they are not known.
        class_names: The class names, in the order of the model's outputs.
        class_counts: The training images of each class; None if they are not known.
        teachers: The recipe of each teacher that was trained for the run, by its name.
        duplicates: The counts and examples of equal images in several splits, or of several
            classes.
        checked_images: The images that cannot be read and were left out (`data.on_bad_image`); None
            if they were not looked for.
        views_version: The version of the augmentation that the run began with; None for a run of
            before there was a number.
    """

    fingerprint: str | None
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...] | None
    teachers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    duplicates: Mapping[str, Any] = field(default_factory=dict)
    checked_images: CheckedImages | None = None
    views_version: int | None = None

    def __post_init__(self) -> None:
        """Refuses what a changed file says of the classes, where it contradicts itself."""
        names, counts = self.class_names, self.class_counts
        if len(set(names)) < len(names):
            raise ValueError("class_names should differ")
        if counts is not None and (len(counts) != len(names) or min(counts, default=0) < 0):
            raise ValueError(f"class_counts should be {len(names)} numbers, none negative")


def parse(kind: type[T], values: object, file: Path) -> T:
    """A dataclass from the content of a JSON file; unknown keys are ignored.

    Args:
        kind: The dataclass.
        values: The content.
        file: The file, for the message.

    Raises:
        VitrellisError: If a key is missing or its value is wrong, naming the file and the key.
    """
    try:
        result: T = _adapter(cast("Hashable", kind)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise VitrellisError(
            f"{file}: damaged ({key + ': ' if key else ''}{first['msg']})"
        ) from error
    return result


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))
