"""Models that timm lacks, any model by name, and feature maps from inside of them.

Importing this room registers our models with timm.
"""

from vitrellis.models.support.arguments import check_arguments
from vitrellis.models.support.factory import (
    IN_TIMM,
    create_model,
    list_models,
    takes_img_size,
)
from vitrellis.models.support.finite import (
    check_finite_outputs,
    check_finite_weights,
    non_finite_tensor,
    origin_of_non_finite,
)
from vitrellis.models.support.heads import (
    has_distillation_head,
    merge_heads,
    separate_heads,
    set_heads_apart,
)
from vitrellis.models.support.interop import load_reference_weights
from vitrellis.models.support.lone_images import norm_of_one_value
from vitrellis.models.support.refusals import REFUSALS, check_takes_images
from vitrellis.models.support.taps import (
    block_channels,
    forward_with_maps,
    num_blocks,
    tapped_forward,
)
from vitrellis.models.support.weights import load_initial, load_strictly, read_state_dict

__all__ = [
    "IN_TIMM",
    "REFUSALS",
    "block_channels",
    "check_arguments",
    "check_finite_outputs",
    "check_finite_weights",
    "check_takes_images",
    "create_model",
    "forward_with_maps",
    "has_distillation_head",
    "list_models",
    "load_initial",
    "load_reference_weights",
    "load_strictly",
    "merge_heads",
    "non_finite_tensor",
    "norm_of_one_value",
    "num_blocks",
    "origin_of_non_finite",
    "read_state_dict",
    "separate_heads",
    "set_heads_apart",
    "takes_img_size",
    "tapped_forward",
]
