from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from vitrellis.data.augmentation.blur import blur, gaussian_kernels, kernel_radius

SIGMAS = torch.tensor([0.1, 0.4, 0.7, 1.0, 1.5, 2.0])


def images(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (6, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(32, 32), (20, 90), (64, 7)])
def test_images_are_blurred_as_by_torchvision(size: tuple[int, int], channels: int) -> None:
    stored = images(channels, *size)
    tall, wide = (2 * kernel_radius(side) + 1 for side in size)
    expected = torch.stack(
        [
            TF.gaussian_blur(image, [wide, tall], [float(sigma)] * 2)
            for image, sigma in zip(stored, SIGMAS, strict=True)
        ]
    )
    assert (expected[-1].int() - stored[-1].int()).abs().max() > 50
    # weights are rounded to 2^-14, and sums half-way between two levels go up
    assert (blur(stored, SIGMAS).int() - expected.int()).abs().max() <= 1


def test_a_kernel_is_odd_and_about_a_tenth_of_the_side() -> None:
    radii = {1: 0, 2: 1, 28: 1, 32: 1, 39: 1, 40: 2, 64: 3, 224: 11}
    assert {side: kernel_radius(side) for side in radii} == radii


def test_kernels_are_exact_and_symmetric() -> None:
    kernels = gaussian_kernels(SIGMAS, 11)
    assert torch.equal(kernels.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(kernels, kernels.flip(1))
    assert torch.equal(kernels * 2**14, (kernels * 2**14).round())
    assert kernels.argmax(dim=1).tolist() == [11] * 6


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (50, 50)])
def test_an_even_grey_stays_as_it_is(size: tuple[int, int]) -> None:
    grey = torch.full((6, 1, *size), 201, dtype=torch.uint8)
    assert torch.equal(blur(grey, SIGMAS), grey)


def test_an_image_becomes_the_same_bits_in_any_company() -> None:
    stored = images(3, 64, 48)
    whole = blur(stored, SIGMAS)
    for rows in ([5, 0, 2], [4], [3, 3]):
        assert torch.equal(blur(stored[rows], SIGMAS[rows]), whole[rows])
