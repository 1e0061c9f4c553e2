"""The sections of a recipe on teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from vitrellis.recipe.yaml import override_texts
from vitrellis.settings import Arguments, File, Positive, Section, Size


def _override_texts(value: object) -> object:
    """A mapping of changes, which bases and the command line merge key by key, as texts."""
    return override_texts(value) if isinstance(value, Mapping) else value


class TeacherSection(Section):
    """The teacher of the student, named by exactly one of `recipe`, `run`, `model` and `given`."""

    recipe: str | None = None
    """The teacher's recipe, by name or by a path relative to this file. It is trained first, once,
    and reused."""
    overrides: Annotated[tuple[str, ...], BeforeValidator(_override_texts)] = ()
    """Changes to the teacher's recipe. The student's seed, images and machine reach the teacher;
    sizes, augmentation, epochs and all else are those of its own recipe, unless changed here:
    `teacher.overrides.training.epochs=30` changes one key, and a list, `[training.epochs=30,
    input.img_size=64]`, takes the place of all changes that a base makes."""
    run: File | None = None
    """The run directory of a finished run."""
    model: str | None = None
    """The name of a model, as `model.name`, which the following keys complete."""
    pretrained: bool = False
    """Whether `model` has the weights that belong to its name (downloaded once)."""
    weights: File | None = None
    """The weights of `model`: a file, a folder, or a run, as `init.weights`."""
    weights_img_size: Size | None = None
    """The size in pixels of the images that the position embeddings in `weights` were made for, as
    `init.weights_img_size`."""
    weights_ema: bool = False
    """Whether to take the moving average of the weights that the file holds beside them."""
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
    precision: Literal["float32", "bfloat16"] | None = None
    """The precision in which the teacher computes its outputs; that of `training.precision` if not
    given. A CNN answers faster in `bfloat16` on processors that compute with it (Intel since Cooper
    Lake, AMD since Zen 4), and more slowly on others."""
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """How the student's images are resized for the teacher."""
    normalization: Literal["own", "student"] = "own"
    """How images are normalised for the teacher: as in its own training, or just as the student's,
    whatever it was trained on, as in the published code of DeiT-LT."""
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
                "(one of them alone takes the place of a base recipe's)"
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
