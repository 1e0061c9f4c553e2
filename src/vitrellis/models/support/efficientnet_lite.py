"""EfficientNet-Lite as efficientnet_lite_pytorch names its tensors, by timm's names.

Source: github.com/ml-illustrated/EfficientNet-Lite-PyTorch, a conversion of the weights of
github.com/tensorflow/tpu (models/official/efficientnet/lite), both under the Apache License 2.0.
timm's models of the same networks are `tf_efficientnet_lite0` to 4: their padding is TensorFlow's,
too, and their batch norms have the same eps, 1e-3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = re.compile(r"^_blocks\.(\d+)\._(\w+?)\.(.+)$")
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_INVERTED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}


def efficientnet_lite_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by timm's names; a name that is not known stays as it is.

    The source counts blocks through, timm counts them in each stage. A stage begins where the
    number of output channels changes.

    Args:
        state: By the names of efficientnet_lite_pytorch.
    """
    places = _places(state)
    renamed = {}
    for name, value in state.items():
        inside = _BLOCK.match(name)
        if inside is not None and int(inside[1]) in places:
            number, part, rest = int(inside[1]), inside[2], inside[3]
            expands = f"_blocks.{number}._expand_conv.weight" in state
            part = (_INVERTED if expands else _SEPARABLE).get(part, f"_{part}")
            name = f"blocks.{places[number]}.{part}.{rest}"
        elif inside is None:
            module, _, rest = name.partition(".")
            name = f"{_OUTSIDE.get(module, module)}.{rest}"
        renamed[name] = value
    return renamed


def _places(state: Mapping[str, Tensor]) -> dict[int, str]:
    """The stage and the number in it of each block, such as "1.0"."""
    widths = {
        int(match[1]): value.shape[0]
        for name, value in state.items()
        if (match := re.fullmatch(r"_blocks\.(\d+)\._project_conv\.weight", name))
    }
    places: dict[int, str] = {}
    stage, number, before = -1, 0, None
    for block in sorted(widths):
        if widths[block] != before:
            stage, number, before = stage + 1, 0, widths[block]
        places[block] = f"{stage}.{number}"
        number += 1
    return places
