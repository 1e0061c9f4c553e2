from __future__ import annotations

import torch
from torch import Tensor

from vitrellis.data.augmentation.operations import (
    NOTHING,
    OPERATIONS,
    Layers,
    apply_layers,
    operate,
    warp_matrices,
)
from vitrellis.data.augmentation.warps import WARPS, combined

FILL = torch.tensor([124.0, 116.0, 104.0])
STRENGTHS = {"Posterize": 3.0, "Solarize": 99.0, "SolarizeAdd": 40.0, "Rotate": 20.0}
SHARE = 0.3
"""The strength of all other operations."""


def images(batch: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, 24, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) // 2 + 30


def one_each() -> tuple[Tensor, Tensor]:
    """Nothing, every operation once, nothing."""
    operations = torch.tensor([NOTHING, *range(len(OPERATIONS)), NOTHING])
    told = [STRENGTHS.get(name, SHARE) for name in OPERATIONS]
    return operations, torch.tensor([0.0, *told, 0.0], dtype=torch.float64)


def test_each_image_gets_its_own_operation_and_no_other() -> None:
    operations, strengths = one_each()
    stored = images(len(operations))
    together = stored.clone()
    operate(together, operations, strengths, FILL)
    is_same = (together == stored).flatten(1).all(dim=1)
    assert torch.equal(is_same, operations == NOTHING)
    for row in range(len(operations)):
        own = slice(row, row + 1)
        alone = stored[own].clone()
        operate(alone, operations[own], strengths[own], FILL)
        assert torch.equal(together[own], alone)


def test_layers_are_done_one_after_the_other() -> None:
    operations, strengths = one_each()
    layers = Layers(
        torch.stack([operations, operations.flip(0)], 1),
        torch.stack([strengths, strengths.flip(0)], 1),
    )
    stored = images(len(operations))
    at_once, in_turn = stored.clone(), stored.clone()
    apply_layers(at_once, layers, FILL)
    operate(in_turn, operations, strengths, FILL)
    operate(in_turn, operations.flip(0), strengths.flip(0), FILL)
    assert torch.equal(at_once, in_turn)


def test_matrices_are_those_of_the_warps_and_of_nothing_else() -> None:
    operations, strengths = one_each()
    still = torch.full_like(operations, NOTHING)
    layers = Layers(torch.stack([still, operations], 1), torch.stack([strengths, strengths], 1))
    matrices = warp_matrices(layers, (24, 32))
    for index, strength, matrix in zip(operations.tolist(), strengths, matrices, strict=True):
        name = OPERATIONS[index] if index != NOTHING else ""
        expected = torch.eye(2, 3, dtype=torch.float64)
        if name in WARPS:
            (expected,) = WARPS[name](strength[None], (24, 32))
            assert not torch.equal(expected, torch.eye(2, 3, dtype=torch.float64))
        assert torch.equal(matrix, expected)


def test_matrices_of_two_layers_are_combined() -> None:
    rotate, shear = OPERATIONS.index("Rotate"), OPERATIONS.index("ShearX")
    strengths = torch.tensor([[20.0, 0.3]], dtype=torch.float64)
    matrices = warp_matrices(Layers(torch.tensor([[rotate, shear]]), strengths), (24, 32))
    first = WARPS["Rotate"](strengths[:, 0], (24, 32))
    second = WARPS["ShearX"](strengths[:, 1], (24, 32))
    torch.testing.assert_close(matrices, combined(first, second), rtol=0, atol=1e-12)
