"""Refuses models that hold or compute NaN or infinity, and names the first tensor that does.

The argmax of NaN is class 0, so a model that has diverged would be scored as if it had answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vitrellis.errors import VitrellisError


def non_finite_tensor(state: Mapping[str, object]) -> str | None:
    """The first tensor that holds NaN or infinity, with how many; None if there is none.

    A tensor without dimensions may be infinite: a model of timm keeps limits that do not limit so.

    Args:
        state: Tensors by name, as in a state dict. What is no tensor is passed over.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if not bool((value.isfinite() if value.ndim else ~value.isnan()).all()):
            return f"{name} ({_count(value)})"
    return None


def _count(values: Tensor) -> str:
    nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    parts = [f"{nan:,} NaN"] if nan else []
    parts += [f"{infinite:,} infinite"] if infinite else []
    return f"{' and '.join(parts)} of {values.numel():,} values"


def check_finite_weights(state: Mapping[str, object], label: str) -> None:
    """Refuses weights and buffers that are not finite.

    Args:
        state: Tensors by name, as in a state dict.
        label: The file or the model that holds them, for the message.

    Raises:
        VitrellisError: Naming the first tensor that holds NaN or infinity.
    """
    tensor = non_finite_tensor(state)
    if tensor is not None:
        raise VitrellisError(
            f"{label}: {tensor} is not finite, so the model has diverged or the file is damaged; "
            "its answers would mean nothing. Use weights from before that, such as an earlier "
            "checkpoint"
        )


def check_finite_outputs(
    model: nn.Module, images: Tensor, outputs: Tensor, name_of: Callable[[int], str]
) -> None:
    """Refuses outputs that are not finite, and says where in the model they come from.

    Args:
        model: The model, in the mode that it computed the outputs in.
        images: The model's input, `(B, C, H, W)`.
        outputs: Its outputs, `(B, ...)`.
        name_of: The name of an image, by its position in the batch.

    Raises:
        VitrellisError: Naming the first image without finite outputs, and the first weight that is
            not finite, or the first module that computes something that is not.
    """
    is_bad = ~outputs.isfinite().flatten(1).all(dim=1)
    if not bool(is_bad.any()):
        return
    position = int(is_bad.nonzero()[0])
    more = int(is_bad.sum()) - 1
    others = f" and for {more:,} more of its batch" if more else ""
    origin = origin_of_non_finite(model, images[position : position + 1])
    raise VitrellisError(
        f"the model's outputs for {name_of(position)}{others} are not finite numbers"
        + (f": {origin} is not finite" if origin is not None else "")
    )


def origin_of_non_finite(model: nn.Module, images: Tensor) -> str | None:
    """The weight that is not finite, or the place in the model that first computes what is not.

    Args:
        model: The model. It computes once more, which changes batch norms in train mode.
        images: The model's input, `(B, C, H, W)`.

    Returns:
        A weight or buffer with the number of its bad values; or the input or output of a module,
        if all weights are finite; None if these are finite, too.
    """
    tensor = non_finite_tensor(model.state_dict())
    if tensor is not None:
        return f"its weight {tensor}"
    place = _first_non_finite_value(model, images)
    return None if place is None else f"its weights are finite, but {place}"


@torch.no_grad()
def _first_non_finite_value(model: nn.Module, images: Tensor) -> str | None:
    """The first input or output of a module, as they are computed, that is not finite."""
    found: list[str] = []

    def look(values: object, place: str) -> None:
        for value in values if isinstance(values, tuple | list) else [values]:
            if not found and non_finite_tensor({"": value}) is not None:
                found.append(place)

    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        place = f"{name or 'the model'} ({type(module).__name__})"
        handles += [
            module.register_forward_pre_hook(
                lambda _, values, place=place: look(values, f"the input of {place}")
            ),
            module.register_forward_hook(
                lambda _, __, values, place=place: look(values, f"the output of {place}")
            ),
        ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
