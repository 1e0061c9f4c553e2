"""Token merging, against a slow and plain implementation in float64 that follows the paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from vitrellis.errors import UsageError
from vitrellis.models import create_model, forward_with_maps
from vitrellis.models.support.token_reduction import num_kept
from vitrellis.models.tome import ToMe, match, merge, merging_rates, places_after

SIZE = (64, 96)  # 24 patches
NAMES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]


def build(name: str = NAMES[0], **kwargs: Any) -> ToMe:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, img_size=SIZE, merge_tokens=True, depth=4, **kwargs)
    assert isinstance(model, ToMe)
    for parameter in model.parameters():  # so that attention is far from uniform
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model.eval()


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def slow_attention(attention: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """`(N, D)` to the same by proportional attention (the paper's equation 1), and mean keys."""
    heads, width = attention.num_heads, attention.head_dim
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    out = torch.zeros_like(x)
    for head in range(heads):
        channels = slice(head * width, (head + 1) * width)
        for query in range(len(x)):
            weights = [
                size * math.exp(float(q[query, channels] @ k[key, channels]) / math.sqrt(width))
                for key, size in enumerate(sizes)
            ]
            for key, weight in enumerate(weights):
                out[query, channels] += weight / sum(weights) * v[key, channels]
    return attention.proj(out), k.unflatten(-1, (heads, width)).mean(dim=1)


def slow_merging(
    x: Tensor, keys: Tensor, sizes: list[int], patches: list[set[int]], num_prefix: int, r: int
) -> tuple[Tensor, list[int], list[set[int]]]:
    """Bipartite soft matching (the paper's section 3), one token after the other."""
    first = [n for n in range(0, len(x), 2) if n >= num_prefix]
    second = [n for n in range(1, len(x), 2) if n >= num_prefix]
    edges = []
    for a in first:
        cosines = {b: float(torch.cosine_similarity(keys[a], keys[b], dim=0)) for b in second}
        b = max(cosines, key=lambda number: cosines[number])
        edges.append((cosines[b], a, b))
    edges.sort(reverse=True)
    members = {b: [b] for b in second}
    for _, a, b in edges[:r]:
        members[b].append(a)
    merged = {a for _, a, _ in edges[:r]}
    groups = [[n] for n in range(num_prefix)] + [[a] for a in first if a not in merged]
    groups += [members[b] for b in second]
    left = [
        torch.stack([sizes[n] * x[n] for n in group]).sum(dim=0) / sum(sizes[n] for n in group)
        for group in groups
    ]
    return (
        torch.stack(left),
        [sum(sizes[n] for n in group) for group in groups],
        [set().union(*(patches[n] for n in group)) for group in groups],
    )


def slow_model(model: ToMe, image: Tensor) -> tuple[Tensor, list[list[set[int]]]]:
    """The normalised tokens `(N, D)`, and after each layer the patches of each token."""
    num_prefix = model.num_prefix_tokens
    x = model._pos_embed(model.patch_embed(image[None]))[0]
    sizes = [1] * len(x)
    patches: list[set[int]] = [set() for _ in range(num_prefix)]
    patches += [{n} for n in range(len(x) - num_prefix)]
    after = []
    for block, rate in zip(model.blocks, model.keep_rate, strict=True):
        attended, keys = slow_attention(block.attn, block.norm1(x), sizes)
        x = x + attended
        others = len(x) - num_prefix
        r = min(others - num_kept(rate, others), others // 2)
        if r > 0:
            x, sizes, patches = slow_merging(x, keys, sizes, patches, num_prefix, r)
        x = x + block.mlp(block.norm2(x))
        after.append(patches)
    return model.norm(x), after


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_slow_and_plain_implementation_in_float64(name: str) -> None:
    model = build(name, keep_rate=[0.75, 0.5, 1.0, 0.7])
    images = pictures()
    single = model.forward_features(images)
    model.double()
    features = model.forward_features(images.double())
    tokens = model.token_of_patch(images.double())
    for sample, image in enumerate(images.double()):
        expected, groups = slow_model(model, image)
        torch.testing.assert_close(features[sample], expected)
        torch.testing.assert_close(single[sample].double(), expected, rtol=1e-3, atol=1e-4)
        for layer, patches_of in enumerate(groups):
            for number, patches in enumerate(patches_of[model.num_prefix_tokens :]):
                assert {tokens[layer][sample, patch].item() for patch in patches} == {number}


@torch.no_grad()
def test_keep_rate_1_is_the_plain_model() -> None:
    model = build(keep_rate=0.7, drop_layers=range(4))
    plain = timm.create_model(NAMES[0], num_classes=5, img_size=SIZE, depth=4).eval()
    plain.load_state_dict(model.state_dict())
    merged = model(pictures())
    model.set_keep_rate(1)
    torch.testing.assert_close(model(pictures()), plain(pictures()))
    assert not torch.allclose(merged, plain(pictures()), atol=1e-4)


@torch.no_grad()
def test_equal_tokens_are_merged_without_loss() -> None:
    """Proportional attention: a picture of pairs of equal patches, each pair merged into one."""
    model = build(keep_rate=0.5, drop_layers=(0,))
    assert model.pos_embed is not None
    model.pos_embed[:, 1:] = 0
    columns = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(2))
    twins = columns.unflatten(-1, (3, 16)).repeat_interleave(2, dim=3).flatten(-2)
    logits = model(twins)
    assert model.forward_features(twins).shape[1] == 1 + 12
    model.set_keep_rate(1.0)
    torch.testing.assert_close(logits, model(twins), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_show_a_merged_token_in_all_its_places() -> None:
    model = build(keep_rate=0.5, drop_layers=(1, 2))
    tokens = model.token_of_patch(pictures())[2]
    _, (taken,) = forward_with_maps(model, pictures(), [2])
    assert taken.shape == (2, 192, 4, 6)
    assert tokens.unique().tolist() == list(range(6))
    for sample in range(2):
        for number in range(6):
            same = taken[sample].flatten(1)[:, tokens[sample] == number]
            assert torch.equal(same, same[:, :1].expand_as(same))


def test_sizes_and_sums_are_kept_and_gradients_flow() -> None:
    tokens = torch.randn(2, 10, 8, dtype=torch.double, requires_grad=True)
    sizes = torch.randint(1, 5, (2, 10, 1)).double()
    matching = match(torch.randn(2, 11, 4).double(), 1, 3)
    left, summed = merge(tokens, sizes, matching)
    assert left.shape == (2, 7, 8)
    torch.testing.assert_close((left * summed).sum(dim=1), (tokens * sizes).sum(dim=1))
    assert places_after(matching).sort(dim=1).values.unique().tolist() == list(range(7))
    assert torch.autograd.gradcheck(lambda t: merge(t, sizes, matching)[0], (tokens,))


def test_the_rates_of_the_papers_r() -> None:
    rates = merging_rates(196, 13, range(12), 12)
    left = 196
    for layer, rate in enumerate(rates):
        left = num_kept(rate, left)
        assert left == 196 - 13 * (layer + 1)
    assert merging_rates(9, 8, [1], 2) == [1.0, 5 / 9]  # half of them at most


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        (NAMES[0], {"keep_rate": 0.4, "drop_layers": [1]}, "keeps at least half"),
        ("vit_base_patch16_siglip_224", {}, "no class token, and an average"),
        ("dhvt_micro_patch4", {}, "several places of the grid"),
        ("resnet18", {}, "the layers of ResNet"),
    ],
)
def test_models_and_rates_that_cannot_merge(
    name: str, arguments: dict[str, Any], reason: str
) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=reason):
        create_model(name, num_classes=5, merge_tokens=True, **arguments)


def test_an_evit_can_merge_instead_and_says_how_it_was_built() -> None:
    model = create_model(
        "evit_deit_tiny_patch16_224",
        num_classes=5,
        img_size=64,
        depth=2,
        merge_tokens=True,
        keep_rate=0.8,
        drop_layers=[0, 1],
    )
    assert isinstance(model, ToMe)
    arguments = {"keep_rate": 0.8, "drop_layers": [0, 1], "merge_tokens": True}
    assert model.pruning_arguments() == arguments
