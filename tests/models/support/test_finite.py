"""The first weight, or else the first module, whose values are not finite is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitrellis.errors import VitrellisError
from vitrellis.models import (
    check_finite_outputs,
    check_finite_weights,
    create_model,
    non_finite_tensor,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["bn1.running_var", "layer1.0.conv2.weight", "fc.bias"])
def test_weights_and_buffers_are_named(name: str, value: float) -> None:
    model = create_model("resnet18", num_classes=3)
    check_finite_weights(model.state_dict(), "x")
    model.state_dict()[name].flatten()[-1] = value
    with pytest.raises(VitrellisError, match=rf"x: {name} \(1 (NaN|infinite) of"):
        check_finite_weights(model.state_dict(), "x")


def test_a_limit_that_does_not_limit_is_no_fault() -> None:
    """timm's Gemma keeps such limits in its buffers; whole numbers cannot be infinite."""
    state = {"limit": torch.tensor(torch.inf), "count": torch.tensor(3), "extra": "text"}
    assert non_finite_tensor(state) is None
    assert non_finite_tensor({"limit": torch.tensor(torch.nan)}) == "limit (1 NaN of 1 values)"


class Block(nn.Module):
    """Squares what a layer computed, between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.first.weight, 1.0)

    def forward(self, values: Tensor) -> Tensor:
        squared: Tensor = self.second(self.first(values) ** 2)
        return squared


@pytest.mark.parametrize(
    ("scale", "place"),
    [(1e30, "the input of 1.second (Linear)"), (3e38, "the output of 1.first (Linear)")],
)
def test_the_first_place_that_overflows_is_named(scale: float, place: str) -> None:
    model = nn.Sequential(nn.Identity(), Block())
    images = torch.tensor([[1.0, 1.0], [scale, scale], [scale, scale]])
    with torch.no_grad():
        outputs = model(images)
    with pytest.raises(VitrellisError) as caught:
        check_finite_outputs(model, images, outputs, lambda position: f"{position}.png")
    assert "outputs for 1.png and for 1 more of its batch are not finite" in str(caught.value)
    assert f"its weights are finite, but {place} is not finite" in str(caught.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_finite_outputs_pass() -> None:
    model = nn.Identity()
    check_finite_outputs(model, torch.ones(2, 3), torch.ones(2, 3), str)
