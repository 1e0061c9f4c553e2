"""The stem of the CIFAR ResNets."""

from __future__ import annotations

from typing import Any

import torch

from vitrellis.models import create_model, forward_with_maps


@torch.no_grad()
def test_a_stem_of_stride_two_leaves_out_every_second_pixel() -> None:
    torch.manual_seed(0)
    strided: Any = create_model("cifar_resnet8", num_classes=3, stem_stride=2).eval()
    plain = create_model("cifar_resnet8", num_classes=3).eval()
    plain.load_state_dict(strided.state_dict())  # the stride has no weights
    images = torch.randn(2, 3, 30, 47)
    stem, every = strided.get_submodule("conv1"), plain.get_submodule("conv1")
    torch.testing.assert_close(stem(images), every(images)[:, :, ::2, ::2])
    _, maps = forward_with_maps(strided, images, [0, 1, 2])
    assert [tuple(taken.shape[-2:]) for taken in maps] == [(15, 24), (8, 12), (4, 6)]
    assert [level["reduction"] for level in strided.feature_info] == [2, 4, 8]
