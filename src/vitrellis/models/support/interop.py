"""Weights of published implementations, loaded into our and timm's models.

Sources: "tiny-transformers" (github.com/lkhl/tiny-transformers, and its copy in
github.com/sunshangquan/logit-standardization-KD: DeiT, T2T-ViT, PiT, PVT, PVT v2, ConViT, CvT and
all ResNets), "mdistiller" (the CIFAR ResNets in the other folders of that copy), "dhvt"
(github.com/ArieSeirack/DHVT), "evit" (github.com/youweiliang/evit), "deit-lt"
(github.com/val-iisc/DeiT-LT: distilled DeiT, and its teachers, plain or as PaCo trained them),
"ldam-drw" (github.com/kaidic/LDAM-DRW) and "paco"
(github.com/dvlab-research/Parametric-Contrastive-Learning), whose teachers those are, and
"efficientnet-lite" (`efficientnet_lite.py`). Names are translated. Every tensor of the checkpoint
must have its place in the model, and the other way round. Of PaCo's tensors only those that
inference uses are loaded. Position embeddings of another size are interpolated as the source does
it.

No tensor holds some settings. One comes along: tiny-transformers' PVT v2 has an eps of 1e-6 in
every norm, timm's 1e-5 in embeddings and spatial reductions, which shows on images of low contrast.
Others are arguments of the model: `normalize_features` for PaCo's `--normalize`, `stride_1x1` for
tiny-transformers' ResNets with bottlenecks, `cosine` for LDAM-DRW's `use_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor, nn

from vitrellis.errors import unknown_name
from vitrellis.models.cifar_resnet import CosineClassifier
from vitrellis.models.pvt import PVT
from vitrellis.models.support.efficientnet_lite import efficientnet_lite_state
from vitrellis.models.support.positions import (
    PLAIN_BICUBIC,
    TIMMS,
    Grid,
    Resampling,
    resample_positions,
)
from vitrellis.models.support.variations import set_norm_eps
from vitrellis.models.support.weights import load_strictly, read_state_dict, unwrap

Rules = Sequence[tuple[str, str]]

TINY_TRANSFORMERS: Rules = (
    # CIFAR ResNets: stages and blocks count from 1
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.bn\.", "bn1."),
    (r"^s(\d+)\.b(\d+)\.f\.a\.", r"stages.<\1>.<\2>.conv1."),
    (r"^s(\d+)\.b(\d+)\.f\.a_bn\.", r"stages.<\1>.<\2>.bn1."),
    (r"^s(\d+)\.b(\d+)\.f\.b\.", r"stages.<\1>.<\2>.conv2."),
    (r"^s(\d+)\.b(\d+)\.f\.b_bn\.", r"stages.<\1>.<\2>.bn2."),
    (r"^s(\d+)\.b(\d+)\.proj\.", r"stages.<\1>.<\2>.shortcut.0."),
    (r"^s(\d+)\.b(\d+)\.bn\.", r"stages.<\1>.<\2>.shortcut.1."),
    (r"^head\.fc\.", "fc."),
    # DeiT
    (r"^layers\.", "blocks."),
    (r"\.attn\.qkv_transform\.", ".attn.qkv."),
    (r"\.attn\.projection\.", ".attn.proj."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^distill_token$", "dist_token"),
    (r"^distill_head\.", "head_dist."),
    # PiT: besides attention as in DeiT; a pooling belongs to the stage after it
    (r"^pools\.0\.", "transformers.1.pool."),
    (r"^pools\.1\.", "transformers.2.pool."),
    # T2T-ViT
    (r"^t2t_module\.attention\.(\d)\.attn\.qkv\.", r"patch_embed.performers.\1.attn.kqv."),
    (r"^t2t_module\.attention\.", "patch_embed.performers."),
    (r"^t2t_module\.projection\.", "patch_embed.proj."),
    # CvT
    (r"^stage(\d)\.", r"stages.\1."),
    # PVT and PVT v2: stages count from 1
    (r"^pos_embed(\d)$", r"stages.<\1>.pos_embed"),
    (r"^patch_embed1\.", "patch_embed."),
    (r"^patch_embed(\d)\.", r"stages.<\1>.downsample."),
    (r"^block(\d)\.", r"stages.<\1>.blocks."),
    (r"^norm(\d)\.", r"stages.<\1>.norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)

TINY_TRANSFORMERS_IMAGENET: Rules = (
    # ResNets of four stages, for timm's
    *TINY_TRANSFORMERS[:2],
    (r"^s(\d+)\.b(\d+)\.f\.a\.", r"layer\1.<\2>.conv1."),
    (r"^s(\d+)\.b(\d+)\.f\.a_bn\.", r"layer\1.<\2>.bn1."),
    (r"^s(\d+)\.b(\d+)\.f\.b\.", r"layer\1.<\2>.conv2."),
    (r"^s(\d+)\.b(\d+)\.f\.b_bn\.", r"layer\1.<\2>.bn2."),
    (r"^s(\d+)\.b(\d+)\.f\.c\.", r"layer\1.<\2>.conv3."),
    (r"^s(\d+)\.b(\d+)\.f\.c_bn\.", r"layer\1.<\2>.bn3."),
    (r"^s(\d+)\.b(\d+)\.proj\.", r"layer\1.<\2>.downsample.0."),
    (r"^s(\d+)\.b(\d+)\.bn\.", r"layer\1.<\2>.downsample.1."),
    (r"^head\.fc\.", "fc."),
)

LONG_TAIL: Rules = (
    (r"^encoder_q\.", ""),
    (r"^layer(\d)\.", r"stages.<\1>."),
    (r"^linear\.", "fc."),
)

LONG_TAIL_IMAGENET: Rules = (LONG_TAIL[0], LONG_TAIL[2])

MDISTILLER: Rules = ((r"^layer(\d)\.", r"stages.<\1>."), (r"\.downsample\.", ".shortcut."))

PUBLISHERS: dict[str, Rules] = {
    "tiny-transformers": TINY_TRANSFORMERS,
    "mdistiller": MDISTILLER,
    "dhvt": (),
    "evit": (),
    "deit-lt": LONG_TAIL,
    "ldam-drw": LONG_TAIL,
    "paco": LONG_TAIL,
    "efficientnet-lite": (),
}

FOUR_STAGES: dict[str, tuple[str, Rules]] = {
    "tiny-transformers": (r"^s4\.", TINY_TRANSFORMERS_IMAGENET),
    "deit-lt": (r"^(encoder_q\.)?layer4\.", LONG_TAIL_IMAGENET),
    "paco": (r"^(encoder_q\.)?layer4\.", LONG_TAIL_IMAGENET),
}
"""By what names a ResNet for large images is known, which is timm's here, and its rules."""

_LONG_TAIL_SOURCES = ("deit-lt", "ldam-drw", "paco")

_TRAINING_ONLY = re.compile(r"^(queue|queue_l|queue_ptr)$|^(encoder_k|linear_k|encoder_q\.fc)\.")
"""PaCo's momentum encoder, queue and projection."""


def load_reference_weights(
    model: nn.Module,
    state_dict_or_path: Mapping[str, Any] | Path | str,
    source: str = "tiny-transformers",
    *,
    ema: bool = False,
    grids: Mapping[str, Grid] | None = None,
    label: str | None = None,
) -> None:
    """Loads a checkpoint of a published implementation, strictly.

    Args:
        model: A model of the same architecture and number of classes. It is changed in place, or
            not at all. A PVT v2 gets the eps of its source, too, which its `state_dict` will not
            hold.
        state_dict_or_path: Weights by the implementation's names, or a checkpoint file with them.
        source: One of `PUBLISHERS`.
        ema: Take the moving average of the weights that a file holds.
        grids: The grids of its position embeddings, by name. Those that are not given must be
            square. For a model of another size they are interpolated.
        label: The origin of the weights, for messages; by default the file or the source.

    Raises:
        UsageError: If the source is unknown.
        VitrellisError: If the file cannot be read, or naming the keys that do not fit.
    """
    check_source(source)
    if isinstance(state_dict_or_path, Path | str):
        label = label or str(state_dict_or_path)
        state = read_state_dict(Path(state_dict_or_path), ema=ema)
    else:
        label = label or f"weights from {source}"
        state = unwrap(state_dict_or_path, label)
    state = weights_for(model, state, source)
    state = resample_positions(state, model, grids or {}, label, resampling_of(model, source))
    load_strictly(model, state, label)
    if norm_eps_of(source, model) is not None:
        set_norm_eps(model, PUBLISHED_EPS)


PUBLISHED_EPS = 1e-6
"""The eps of tiny-transformers' layer norms (`TRANSFORMER.LN_EPS`)."""


def norm_eps_of(source: str, model: nn.Module) -> float | None:
    """The eps of all layer norms of a published model, where it is not the one of ours."""
    is_pvt_v2 = isinstance(model, PyramidVisionTransformerV2)
    return PUBLISHED_EPS if source == "tiny-transformers" and is_pvt_v2 else None


def resampling_of(model: nn.Module, source: str) -> Resampling:
    """How the source interpolates position embeddings; timm's way where it does not."""
    if source == "tiny-transformers":
        return Resampling("bilinear", antialias=False) if isinstance(model, PVT) else TIMMS
    return PLAIN_BICUBIC


def weights_for(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a published implementation under a model's names, in its layout.

    Args:
        model: The model that they are for.
        state: By the implementation's names.
        source: One of `PUBLISHERS`.
    """
    translated = published_state(state, source)
    is_cosine = isinstance(getattr(model, "fc", None), CosineClassifier)
    if is_cosine and source in _LONG_TAIL_SOURCES and "fc.weight" in translated:
        translated["fc.weight"] = translated["fc.weight"].mT  # it holds a class in each column
    return translated


def check_source(source: str) -> None:
    """Refuses what is not in `PUBLISHERS`.

    Raises:
        UsageError: Naming those that are.
    """
    if source not in PUBLISHERS:
        raise unknown_name("source of weights", source, PUBLISHERS)


def published_state(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a published implementation that a model of ours needs, under our names.

    Args:
        state: By the implementation's names.
        source: One of `PUBLISHERS`.
    """
    if source == "efficientnet-lite":
        return efficientnet_lite_state(state)
    rules = PUBLISHERS[source]
    if source in FOUR_STAGES:
        pattern, imagenet_rules = FOUR_STAGES[source]
        if any(re.search(pattern, name) for name in state):
            rules = imagenet_rules
    if source in _LONG_TAIL_SOURCES:
        state = {name: value for name, value in state.items() if not _TRAINING_ONLY.search(name)}
    return translate(state, rules)


def translate(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The same tensors under our names.

    Args:
        state: By the implementation's names.
        rules: Patterns and what replaces them, in order; `<n>` in a replacement is n - 1.
    """
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[re.sub(r"<(\d+)>", lambda match: str(int(match[1]) - 1), name)] = value
    return renamed
