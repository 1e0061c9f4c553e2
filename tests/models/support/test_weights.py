"""Weights from files: what fits is loaded, what does not is refused with a reason."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, read_state_dict


def save(state: Mapping[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


def resnet(num_classes: int = 3, name: str = "cifar_resnet8") -> dict[str, Tensor]:
    torch.manual_seed(7)
    return create_model(name, num_classes=num_classes).state_dict()


SUFFIXES = [".safetensors", ".pt", ".old"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_weights_are_loaded(tmp_path: Path, suffix: str) -> None:
    state = resnet()
    path = save(state, tmp_path / f"weights{suffix}")
    torch.manual_seed(8)
    loaded = create_model("cifar_resnet8", num_classes=3, weights=path).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_a_head_of_other_classes_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = resnet(num_classes=7)
    path = save(state, tmp_path / "weights.pt")
    with caplog.at_level(logging.WARNING):
        model = create_model("cifar_resnet8", num_classes=3, weights=path)
    assert "starts anew: fc.weight, fc.bias" in caplog.text
    assert torch.equal(model.get_parameter("conv1.weight"), state["conv1.weight"])
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)


@torch.no_grad()
def test_positions_are_resized_to_other_images(tmp_path: Path) -> None:
    small = create_model("deit_tiny_patch16_224", num_classes=3, img_size=32)
    path = save(small.state_dict(), tmp_path / "weights.safetensors")
    large = create_model("deit_tiny_patch16_224", num_classes=3, img_size=(64, 32), weights=path)
    assert large.get_parameter("pos_embed").shape == (1, 1 + 4 * 2, 192)
    assert torch.equal(large.get_parameter("head.weight"), small.get_parameter("head.weight"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["pvt_tiny", "t2t_vit_7", "evit_deit_tiny_patch16_224"])
def test_our_models_start_from_weights_of_another_size(tmp_path: Path, name: str) -> None:
    small = create_model(name, num_classes=3, img_size=64).eval()
    path = save(small.state_dict(), tmp_path / "weights.safetensors")
    large = create_model(name, num_classes=3, img_size=(64, 96), weights=path).eval()
    assert torch.equal(large.get_parameter("head.weight"), small.get_parameter("head.weight"))
    images = torch.randn(2, 3, 64, 96)
    assert large(images).shape == (2, 3)
    again = create_model(name, num_classes=3, img_size=64, weights=path).eval()
    assert torch.equal(again(images[..., :64]), small(images[..., :64]))


def test_pvt_says_how_small_is_too_small() -> None:
    with pytest.raises(UsageError, match=r"images of \(28, 28\) pixels .* 32 pixels are the least"):
        create_model("pvt_tiny", num_classes=3, img_size=28)


@pytest.mark.parametrize(
    "name", ["cifar_resnet14", "dhvt_micro_patch4", "deit_tiny_patch16_224", "convnext_atto"]
)
def test_weights_of_another_model(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(resnet(num_classes=7), tmp_path / "weights.pt")
    with pytest.raises(VitrellisError, match=r"weights.pt: not the weights of this model: "):
        create_model(name, num_classes=3, weights=path)
    assert "anew" not in caplog.text


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="no such file"):
        read_state_dict(tmp_path / "nothing.pt")


@pytest.mark.filterwarnings("ignore")  # torch warns of what is in damaged files
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    whole = save({"a": torch.randn(20, 3), "b": torch.randn(4)}, tmp_path / f"whole{suffix}")
    content = whole.read_bytes()
    path = tmp_path / f"damaged{suffix}"
    for length in (0, 1, 100, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(VitrellisError, match="damaged"):
            read_state_dict(path)
    numbers = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        path.write_bytes(damaged)
        with suppress(VitrellisError):  # where it hits a number, the file can still be read
            read_state_dict(path)


def test_a_payload_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "weights.pt"
    torch.save({"model": Payload()}, path)
    with pytest.raises(VitrellisError, match="was not read"):
        create_model("cifar_resnet8", num_classes=3, weights=path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)  # the payload does work
    assert (tmp_path / "executed").exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(VitrellisError, match="Save the model's state_dict"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize("key", ["model_ema", "ema_state", "state_dict_ema"])
def test_a_moving_average_that_is_left_is_said_and_can_be_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    weights = resnet()
    averages = {name: value + 1 for name, value in weights.items()}
    path = tmp_path / "both.pt"
    torch.save({"model": weights, key: averages}, path)
    for wanted, expected in ((False, weights), (True, averages)):
        caplog.clear()
        model = create_model("cifar_resnet8", num_classes=3, weights=path, weights_ema=wanted)
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name])
        said = f"{path}: also holds a moving average of the weights ({key}), which is not taken"
        assert (said in caplog.text) is not wanted
