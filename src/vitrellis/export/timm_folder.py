"""A trained model as a folder that timm reads, and its own transform with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from vitrellis.errors import UsageError
from vitrellis.models import merge_heads
from vitrellis.models.support.factory import prunes_itself
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.runs.exported import Trained, save_model


def write_timm(trained: Trained, folder: Path) -> None:
    """Writes `config.json` and `model.safetensors` for `timm.create_model("local-dir:FOLDER")`.

    A second classifier that timm's model does not have, and that learned from a teacher, is merged
    with the first: the mean of two linear layers is a linear layer.

    Args:
        trained: The model.
        folder: Where to write.

    Raises:
        UsageError: If it leaves tokens out and timm's model of its name does not.
    """
    name = trained.architecture
    if isinstance(trained.model, TokenReduction) and not prunes_itself(
        name.split(".")[0], trained.model_args
    ):
        raise UsageError(
            f"{name}: leaves tokens out (keep rate {trained.model_args.get('keep_rate')}), which "
            "timm's model of this name cannot, so that timm would read another model. Export "
            "ONNX or torch-export, or train an evit_deit_* model"
        )
    model, model_args = copy.deepcopy(trained.model), dict(trained.model_args)
    if merge_heads(model):
        model_args.pop("distillation_head")
    save_model(
        model,
        folder,
        architecture=trained.architecture,
        num_classes=len(trained.class_names),
        model_args=model_args,
        class_names=trained.class_names,
        preprocessing=trained.preprocessing,
    )


class TimmFolder:
    """A folder as timm alone reads it: model, configuration and transform.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        config = resolve_data_config({}, model=self._model)
        self._channels: int = config["input_size"][0]
        self._transform: Any = create_transform(**config, is_training=False)

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor]) -> Tensor:
        """uint8 images `(C, H, W)` of any sizes to probabilities float32 `(N, K)`."""
        pictures = [Image.fromarray(_pillow_array(image)) for image in images]
        logits = self._model(torch.stack([self._transform(picture) for picture in pictures]))
        return logits.softmax(dim=-1)

    @torch.no_grad()
    def run(self, pixels: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)`, resized and cropped, to probabilities float32 `(B, K)`."""
        settings = self._model.pretrained_cfg
        mean = torch.tensor(settings["mean"]).view(1, -1, 1, 1)
        std = torch.tensor(settings["std"]).view(1, -1, 1, 1)
        return self._model((pixels / 255 - mean) / std).softmax(dim=-1)


def _pillow_array(image: Tensor) -> Any:
    """`(H, W)` for grey, `(H, W, 3)` for colour."""
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
