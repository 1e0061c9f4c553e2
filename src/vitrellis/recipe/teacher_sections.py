"""The sections of a recipe on teachers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vitrellis.settings import Arguments, File, Positive, Section, Size


class TeacherSection(Section):
    """The teacher of the student, named by exactly one of `recipe`, `run`, `model` and `given`."""

    recipe: str | None = None
    """The teacher's recipe, by name or by a path relative to this file. It is trained first, once,
    and reused."""
    overrides: tuple[str, ...] = ()
    """Changes to the teacher's recipe, as on the command line: `[training.epochs=30]`."""
    run: File | None = None
    """The run directory of a finished run."""
    model: str | None = None
    """The name of a model, which the following keys complete."""
    pretrained: bool = False
    """Whether `model` has timm's published weights (downloaded once)."""
    weights: File | None = None
    """A file with the weights of `model`."""
    weights_img_size: Size | None = None
    """The size in pixels of the images that the position embeddings in `weights` were made for, as
    `model.weights_img_size`."""
    given: bool = False
    """Whether the teacher is a module from Python: `vitrellis.train(..., teachers={name: module})`.
    """
    img_size: Size | None = None
    """The size of the teacher's images in pixels; the student's if not given."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of `model`."""
    mode: Literal["eval", "train"] = "eval"
    """The mode of the teacher's batch norms. With `train` their statistics drift, as in published
    figures; use it only to reproduce those."""
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """How the student's images are resized for the teacher."""
    offline: bool = False
    """Whether the teacher's outputs are computed once for each training image, without
    augmentation, and kept on disk; crops, flips and warps are then applied to the outputs, too
    (`vitrellis features`)."""
    offline_precision: Literal["float32", "float16"] = "float32"
    """The precision of the outputs on disk."""

    @model_validator(mode="after")
    def _check_exactly_one(self) -> TeacherSection:
        kinds = ("recipe", "run", "model", "given")
        used = [kind for kind in kinds if getattr(self, kind) not in (None, False)]
        if len(used) != 1:
            listed = " and ".join(used) if used else "none of them"
            raise ValueError(
                f"needs exactly one of recipe, run, model and given; {listed} given "
                "(null removes a key of a base recipe)"
            )
        goes_with: dict[str, tuple[str, ...]]
        goes_with = {"overrides": ("recipe",), "pretrained": ("model",), "weights": ("model",)}
        goes_with |= {"weights_img_size": ("model",)}
        goes_with |= {"img_size": ("model", "given"), "args": ("model",)}
        for key, needed in goes_with.items():
            if getattr(self, key) and used[0] not in needed:
                raise ValueError(
                    f"{key} goes with {needed[0]}, and this teacher is given by {used[0]}"
                )
        if self.offline and self.mode == "train":
            raise ValueError(
                "offline computes the teacher's outputs once, and mode: train would change them; "
                "drop one of them"
            )
        return self


class NamedTeacher(TeacherSection):
    """One of several teachers."""

    weight: Positive = 1.0
    """The factor of the weights of the terms that learn from this teacher."""
    terms: tuple[str, ...] | None = None
    """The terms of the objective that learn from this teacher, such as `[kd]`; all that need a
    teacher if not given."""
