"""Plain Vision Transformers for 28 to 64 pixels, where timm names none. The class is timm's.

Paper: Dosovitskiy et al., ICLR 2021, https://arxiv.org/abs/2010.11929, in the form of DeiT (Touvron
et al., ICML 2021). The names say width (micro 96, tiny 192, small 384), patch and pixels; any other
size that the patch divides is one `img_size` away.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

_WIDTHS: dict[str, dict[str, Any]] = {
    "micro": {"embed_dim": 96, "depth": 4, "num_heads": 3, "mlp_ratio": 2.0},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
}
_SHAPES = {
    "vit_micro_patch7_28": (7, 28),
    "vit_micro_patch4_28": (4, 28),
    "vit_micro_patch8_64": (8, 64),
    "vit_tiny_patch4_32": (4, 32),
    "vit_tiny_patch8_64": (8, 64),
    "vit_small_patch4_32": (4, 32),
    "vit_small_patch8_64": (8, 64),
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 10,
            "input_size": (3, size, size),
            "min_input_size": (3, 2 * patch_size, 2 * patch_size),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for name, (patch_size, size) in _SHAPES.items()
    }
)


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> VisionTransformer:
    patch_size, size = _SHAPES[name]
    shape = _WIDTHS[name.split("_")[1]] | {"img_size": size, "patch_size": patch_size}
    model = build_model_with_cfg(
        VisionTransformer,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **(shape | kwargs),
    )
    assert isinstance(model, VisionTransformer)
    return model


@register_model
def vit_micro_patch7_28(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """16 tokens: the fastest, for tests and first tries."""
    return _create("vit_micro_patch7_28", pretrained, kwargs)


@register_model
def vit_micro_patch4_28(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """49 tokens."""
    return _create("vit_micro_patch4_28", pretrained, kwargs)


@register_model
def vit_micro_patch8_64(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """64 tokens."""
    return _create("vit_micro_patch8_64", pretrained, kwargs)


@register_model
def vit_tiny_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Ti's shape for CIFAR-sized images, 64 tokens."""
    return _create("vit_tiny_patch4_32", pretrained, kwargs)


@register_model
def vit_tiny_patch8_64(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Ti's shape for 64 pixels, 64 tokens."""
    return _create("vit_tiny_patch8_64", pretrained, kwargs)


@register_model
def vit_small_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-S's shape for CIFAR-sized images, 64 tokens."""
    return _create("vit_small_patch4_32", pretrained, kwargs)


@register_model
def vit_small_patch8_64(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-S's shape for 64 pixels, 64 tokens."""
    return _create("vit_small_patch8_64", pretrained, kwargs)
