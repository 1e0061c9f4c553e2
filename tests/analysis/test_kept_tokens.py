"""What is kept at several rates is what the model keeps; mistakes are ordered by confidence."""

from __future__ import annotations

import pytest
import torch

from vitrellis.analysis.kept_tokens import LEFT_BEHIND, kept_tokens, quarters
from vitrellis.analysis.mistakes import most_confident_mistakes
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.models.evit import EViT

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_rates_beside_each_other_are_those_of_pruned_models() -> None:
    torch.manual_seed(0)
    model = create_model("vit_micro_patch8_64", num_classes=3).eval()
    found = kept_tokens(model, "vit", IMAGES, [0.7, 0.4], [1, 2])
    assert not isinstance(model, EViT)  # it is not changed
    assert [kept.keep_rate for kept in found] == [0.7, 0.4]
    for kept in found:
        pruned = create_model(
            "vit_micro_patch8_64", num_classes=3, keep_rate=kept.keep_rate, drop_layers=[1, 2]
        ).eval()
        pruned.load_state_dict(model.state_dict())
        assert isinstance(pruned, EViT)
        positions = pruned.kept_positions(IMAGES)
        assert kept.layers == (1, 2)
        for layer, tokens in zip(kept.layers, kept.tokens, strict=True):
            for image in range(2):
                left = (tokens[image].flatten() != LEFT_BEHIND).nonzero().flatten()
                places = positions[layer][image]
                assert set(left.tolist()) == set(places[places >= 0].tolist())


def test_a_model_that_prunes_is_shown_as_it_is() -> None:
    own = create_model("vit_micro_patch8_64", num_classes=3, keep_rate=0.6, drop_layers=[2]).eval()
    (kept,) = kept_tokens(own, "vit", IMAGES)
    assert (kept.keep_rate, kept.layers, kept.merges) == (0.6, (2,), False)
    merging = create_model(
        "vit_micro_patch8_64", num_classes=3, keep_rate=0.6, drop_layers=[2], merge_tokens=True
    ).eval()
    (merged,) = kept_tokens(merging, "vit", IMAGES)
    assert merged.merges
    assert merged.tokens[0].min() >= 0
    assert [len(image.unique()) for image in merged.tokens[0]] == [39, 39]  # 0.6 of 64


def test_layers_are_at_quarters_of_the_depth() -> None:
    assert quarters(12) == (3, 6, 9)  # as published
    assert quarters(4) == (1, 2, 3)


def test_a_model_that_cannot_be_pruned() -> None:
    with pytest.raises(UsageError, match="tokens cannot be left out"):
        kept_tokens(create_model("pit_ti_224", num_classes=3, img_size=64).eval(), "pit", IMAGES)


def test_mistakes_begin_with_the_most_confident() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 0, 1, 0])
    found = most_confident_mistakes(probabilities, labels, 3)
    assert [mistake.index for mistake in found] == [2, 4, 1]
    assert (found[2].label, found[2].predicted) == (0, 1)
    assert found[2].probability == pytest.approx(0.7)
    assert found[2].label_probability == pytest.approx(0.3)
    assert most_confident_mistakes(probabilities[:1], labels[:1], 3) == []
