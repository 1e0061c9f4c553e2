"""The attention of timm's ViT in two halves, so that what is between them can be seen or changed.

timm's `Attention.forward` gives neither the attention weights nor the keys away. Whatever timm's
layer may have (norms of queries and keys, a norm or a gate of the output) is in these two halves.
"""

from __future__ import annotations

from timm.models.vision_transformer import Attention
from torch import Tensor


def queries_keys_values(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(B, N, D)` to queries, keys and values, `(B, heads, N, D / heads)` each.

    Args:
        attention: The layer.
        x: Its input.
    """
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return attention.q_norm(q), attention.k_norm(k), v


def attention_output(attention: Attention, x: Tensor, attended: Tensor) -> Tensor:
    """The layer's output `(B, N, D)`.

    Args:
        attention: The layer.
        x: Its input, `(B, N, D)`.
        attended: The weighted values, `(B, heads, N, D / heads)`.
    """
    out: Tensor = attention.norm(attended.transpose(1, 2).flatten(-2))
    if attention.gate is not None:
        out = out * attention.gate(x).sigmoid()
    return attention.proj_drop(attention.proj(out))


def dropout_of(attention: Attention) -> float:
    """The dropout of the attention weights, 0 outside training."""
    return attention.attn_drop.p if attention.training else 0.0
