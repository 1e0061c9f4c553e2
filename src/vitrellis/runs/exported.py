"""A trained model on disk: timm's local format, with class names and preprocessing beside it.

`timm.create_model("local-dir:FOLDER", pretrained=True)` reads it, and so does `load_exported`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from vitrellis.data.augmentation.resampling import Interpolation
from vitrellis.data.eval_transform import CropMode, EvalTransform
from vitrellis.data.sources.decoding import read_image, upright_pixels
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import (
    check_arguments,
    check_finite_outputs,
    check_finite_weights,
    create_model,
    load_strictly,
    read_state_dict,
    takes_img_size,
)
from vitrellis.models.support.factory import known_grids, prunes_itself
from vitrellis.models.support.positions import MadeFor, position_grids, resample_positions
from vitrellis.models.support.prune_tokens import PRUNING
from vitrellis.models.support.variations import NOT_TIMMS
from vitrellis.models.support.weights import CHECKSUM, tensors_digest
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json
from vitrellis.runs.given_images import ImageLike, check_pixels, named_images
from vitrellis.runs.results import parse

PREDICT_BATCH_SIZE = 256
"""The largest number of images that `Trained.predict` computes in one batch."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image of any size to the model's input, in evaluation and prediction.

    They are those of timm's evaluation transform, and so are the names.

    Attributes:
        img_size: The size `(H, W)` of the model's input.
        channels: The number of channels.
        mean: The mean of each channel, of images in [0, 1].
        std: The standard deviation of each channel, of images in [0, 1].
        interpolation: The interpolation, with antialiasing.
        crop_pct: `img_size` as a share of the size that images are resized to before the middle is
            cut out, such as 0.875 for 224 of 256 pixels.
        crop_mode: What is resized: "squash" both sides, "center" the shorter side, and "border" the
            longer side, beyond which a border of the mean colour is added.
        value_range: The levels of 16-bit grey files that become black and white; None for all.
    """

    img_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float = 1.0
    crop_mode: CropMode = "squash"
    value_range: tuple[int, int] | None = None

    def transform(self) -> EvalTransform:
        """The transform from images to the model's input."""
        return EvalTransform(
            size=self.img_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )


@dataclass(frozen=True)
class _Written:
    """The part of `config.json` that timm does not read."""

    architecture: str
    class_names: tuple[str, ...]
    model_args: dict[str, Any]
    preprocessing: Preprocessing
    position_grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A trained model with its class names and preprocessing.

    Attributes:
        model: The model, in eval mode.
        architecture: The name of the architecture.
        class_names: The class names, in the order of its outputs.
        preprocessing: The preprocessing of its images.
        notes: Facts about its reading that the user should know, one sentence each.
        model_args: Further arguments that the model was built with.
    """

    model: nn.Module
    architecture: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def predict(
        self,
        images: Tensor | Iterable[ImageLike] | Path | str | Image.Image,
        names: Iterable[str] | None = None,
    ) -> Tensor:
        """The class probabilities.

        Args:
            images: uint8 `(N, C, H, W)`; or a list or iterator of uint8 `(C, H, W)` of any sizes,
                paths of image files, and Pillow images, which are turned upright and made grey or
                colour as the model needs them; or a single path or Pillow image.
            names: The names of the images, for messages; by default their paths or numbers.

        Returns:
            `(N, K)`, on the model's device.

        Raises:
            UsageError: If these are no images, or the names are not as many.
            VitrellisError: If a file cannot be read; if a tensor is not uint8, has another number
                of channels or no pixels; or if the model has diverged, naming the first weight
                that is not finite, or the first image and module whose output is not.
        """
        settings = self.preprocessing
        resize = settings.transform().resize_and_crop
        shown: list[str] = []
        resized = [torch.empty(0, settings.channels, *settings.img_size, dtype=torch.uint8)]
        for image, name in named_images(images, names):
            shown.append(name)
            resized.append(resize(self._pixels(image, name))[None])
        return self.predict_resized(torch.cat(resized), shown)

    def _pixels(self, image: ImageLike, name: str) -> Tensor:
        """uint8 `(C, H, W)` on the CPU."""
        settings = self.preprocessing
        if isinstance(image, Path | str):
            path = Path(image).expanduser()
            return read_image(path, settings.channels, settings.value_range)
        if isinstance(image, Image.Image):
            return upright_pixels(image, settings.channels, name)
        return check_pixels(image, settings.channels, name).cpu()

    @torch.no_grad()
    def predict_resized(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """The class probabilities of images that are resized and cropped as the preprocessing says.

        Args:
            images: uint8 `(N, C, h, w)` on the CPU.
            names: The names of the images, for messages; by default their numbers.

        Returns:
            `(N, K)`, on the model's device.

        Raises:
            VitrellisError: If the model has diverged, as `predict` says.
        """
        check_finite_weights(self.model.state_dict(), f"the model ({self.architecture})")
        device = next(self.model.parameters()).device
        normalize = self.preprocessing.transform().normalize
        parts = [torch.empty(0, len(self.class_names), device=device)]
        for start in range(0, len(images), PREDICT_BATCH_SIZE):
            seen = normalize(images[start : start + PREDICT_BATCH_SIZE]).to(device)
            logits: Tensor = self.model(seen).float()
            check_finite_outputs(
                self.model,
                seen,
                logits,
                lambda position: _name(names, start + position),  # noqa: B023
            )
            parts.append(logits.softmax(dim=-1))
        return torch.cat(parts)


def _name(names: Sequence[str] | None, number: int) -> str:
    return f"image {number}" if names is None else names[number]


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    architecture: str,
    num_classes: int,
    model_args: Mapping[str, Any],
    class_names: Sequence[str],
    preprocessing: Preprocessing,
) -> None:
    """Writes `config.json` and `model.safetensors`, each in one move.

    Args:
        model: The model, whose weights are written.
        folder: The folder of the files.
        architecture: The name of the architecture.
        num_classes: The number of classes.
        model_args: Further arguments that it was built with.
        class_names: The class names, in the order of its outputs.
        preprocessing: The preprocessing of its images.

    Raises:
        VitrellisError: If a file cannot be written, or naming the first weight that is not finite;
            a model that was there before is left as it was.
    """
    # safetensors refuses tensors that share memory, as those of coat_tiny do
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    check_finite_weights(state, f"{folder}: not written")
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = preprocessing.img_size
    is_timms = prunes_itself(architecture.split(".")[0], model_args)
    unknown = NOT_TIMMS if is_timms else (*NOT_TIMMS, *PRUNING)
    args = {name: value for name, value in model_args.items() if name not in unknown}
    args |= {"in_chans": preprocessing.channels}
    if takes_img_size(architecture.split(".")[0]):
        args["img_size"] = list(size)
    config = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": getattr(model, "num_features", None),
        "label_names": list(class_names),
        "model_args": args,
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [preprocessing.channels, *size],
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": preprocessing.crop_mode,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "first_conv": cfg.get("first_conv"),
            "classifier": cfg.get("classifier"),
        },
        "vitrellis": {
            "class_names": list(class_names),
            "model_args": dict(model_args),
            "preprocessing": asdict(preprocessing),
            "position_grids": position_grids(model),
        },
    }
    about = {CHECKSUM: tensors_digest(state)}  # with two keys, their order would be by chance
    # save_file would write beside it, under a name of its own that a kill leaves there
    atomic_write(folder / "model.safetensors", lambda path: path.write_bytes(save(state, about)))
    write_sealed_json(folder / "config.json", config)


def load_exported(folder: Path | str, *, img_size: int | tuple[int, int] | None = None) -> Trained:
    """The model that `save_model` wrote.

    Args:
        folder: The folder of its files.
        img_size: Images of another size, in pixels, for which its position embeddings are
            interpolated. By default the size is that of its training.

    Raises:
        UsageError: If the model cannot be built for that size.
        VitrellisError: If a file is missing or damaged, or holds another model or NaN.
    """
    if not isinstance(folder, str | Path):
        raise UsageError(f"folder: is a {type(folder).__name__}; should be the path of RUN/model")
    folder = Path(folder).expanduser()
    config_file = folder / "config.json"
    written = _read_config(config_file)
    preprocessing = written.preprocessing
    if img_size is not None:
        preprocessing = _at_size(preprocessing, img_size)
    arguments = written.model_args | {
        "img_size": preprocessing.img_size,
        "in_chans": preprocessing.channels,
    }
    name = written.architecture
    try:
        check_arguments(written.model_args, "model_args")
        model = create_model(name, num_classes=len(written.class_names), **arguments)
    except UsageError as error:
        if img_size is not None:
            raise
        raise VitrellisError(f"{config_file}: {error}") from error
    path = folder / "model.safetensors"
    state = read_state_dict(path)
    if preprocessing.img_size != written.preprocessing.img_size:
        known = MadeFor(written.preprocessing.img_size, written.position_grids)
        grids = known_grids(model, name, known, str(path), arguments)
        state = resample_positions(state, model, grids, str(path))
    load_strictly(model, state, str(path))
    return Trained(
        model.eval(),
        name,
        written.class_names,
        preprocessing,
        notes=written.notes,
        model_args=written.model_args,
    )


def _at_size(preprocessing: Preprocessing, img_size: int | tuple[int, int]) -> Preprocessing:
    """The same steps to images of another size."""
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    return replace(preprocessing, img_size=size)


def _read_config(path: Path) -> _Written:
    if not path.exists():
        raise VitrellisError(
            f"{path.parent}: holds no model (no {path.name}). A run writes `model` after the first "
            "validated epoch, and `last` when training ends"
        )
    config = read_sealed_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("vitrellis"), dict):
        raise VitrellisError(
            f"{path}: was not written by Vitrellis (it has no 'vitrellis' section). timm reads "
            'models of others: timm.create_model("local-dir:FOLDER", pretrained=True)'
        )
    values = config["vitrellis"] | {"architecture": config.get("architecture")}
    preprocessing = values.get("preprocessing")
    if isinstance(preprocessing, dict) and "canvas" in preprocessing:
        crop_mode = "center" if preprocessing.get("fit") == "crop" else "squash"
        values["preprocessing"] = preprocessing | {"crop_mode": crop_mode}
        values["notes"] = (_CANVAS_NOTE.format(path=path),)
    return parse(_Written, values, path)


_CANVAS_NOTE = (
    "{path}: was written by an earlier version, which resized images twice in evaluation. They are "
    "resized once now, as the file tells timm, so predictions may differ from the run's figures"
)
