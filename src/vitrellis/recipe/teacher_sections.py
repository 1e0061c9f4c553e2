"""What a recipe says about teachers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vitrellis.settings import Arguments, File, Positive, Section, Size


class TeacherSection(Section):
    """Who guides the student: exactly one of `recipe`, `run`, `model` and `given`."""

    recipe: str | None = None
    """A recipe, by name or by path relative to this file; trained first, once, and reused."""
    overrides: tuple[str, ...] = ()
    """Changes to that recipe, as on the command line: `[training.epochs=30]`."""
    run: File | None = None
    """A finished run's directory."""
    model: str | None = None
    """A model by name, with the following keys."""
    pretrained: bool = False
    """Use timm's published weights for it (downloaded once)."""
    weights: File | None = None
    """Use the weights in this file for it."""
    given: bool = False
    """A module that is passed to `vitrellis.train(..., teachers={name: module})` in Python."""
    img_size: Size | None = None
    """Pixels that it wants to see; the student's if not given."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of it."""
    mode: Literal["eval", "train"] = "eval"
    """`train` lets its batch statistics drift, as in published figures; only to reproduce them."""
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """How the student's images are brought to its size."""
    offline: bool = False
    """Ask it once what it says of each training image as it is, and keep that on disk; crops, flips
    and warps are then done to the answer, too (`vitrellis features`)."""
    offline_precision: Literal["float32", "float16"] = "float32"
    """Of what is kept."""

    @model_validator(mode="after")
    def _exactly_one(self) -> TeacherSection:
        kinds = ("recipe", "run", "model", "given")
        given = [kind for kind in kinds if getattr(self, kind) not in (None, False)]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise ValueError(
                f"needs exactly one of recipe, run, model and given; {said} given "
                "(null takes back what a base recipe says)"
            )
        belongs: dict[str, tuple[str, ...]]
        belongs = {"overrides": ("recipe",), "pretrained": ("model",), "weights": ("model",)}
        belongs |= {"img_size": ("model", "given"), "args": ("model",)}
        for key, where in belongs.items():
            if getattr(self, key) and given[0] not in where:
                raise ValueError(
                    f"{key} goes with {where[0]}, and this teacher is given by {given[0]}"
                )
        if self.offline and self.mode == "train":
            raise ValueError(
                "offline asks the teacher once, and mode: train lets it drift; drop one of them"
            )
        return self


class NamedTeacher(TeacherSection):
    """One of several teachers."""

    weight: Positive = 1.0
    """What the weights of its terms are multiplied by."""
    terms: tuple[str, ...] | None = None
    """Which terms of the objective it takes part in, such as `[kd]`; all that need a teacher, if
    not given."""
