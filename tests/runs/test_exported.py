"""Models on disk: read back by us and by timm, and refused when they are damaged."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import nn

from tests.runs.edited import unsealed
from vitrellis.data.eval_transform import CropMode
from vitrellis.errors import VitrellisError
from vitrellis.models import create_model
from vitrellis.runs.exported import Preprocessing, load_exported, save_model

NAMES = ("ash", "beech", "fir")
CASES: list[tuple[str, tuple[int, int], int, dict[str, Any]]] = [
    ("dhvt_micro_patch4", (28, 28), 1, {"drop_path_rate": 0.1}),
    ("cifar_resnet8", (16, 16), 3, {"shortcut": "pad"}),
    ("vit_micro_patch7_28", (28, 42), 5, {}),
    ("resnet18", (32, 32), 3, {}),
    ("coat_tiny", (64, 64), 3, {}),  # its blocks share convolutions
]


def preprocessing(img_size: tuple[int, int], channels: int) -> Preprocessing:
    return Preprocessing(
        img_size=img_size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        interpolation="bicubic",
        crop_pct=0.875,
        crop_mode="center",
    )


def save(folder: Path, name: str, size: tuple[int, int], channels: int, **args: Any) -> nn.Module:
    model = create_model(name, num_classes=3, img_size=size, in_chans=channels, **args).eval()
    save_model(
        model,
        folder,
        architecture=name,
        num_classes=3,
        model_args=args,
        class_names=NAMES,
        preprocessing=preprocessing(size, channels),
    )
    return model


@pytest.mark.parametrize(("name", "size", "channels", "args"), CASES, ids=[c[0] for c in CASES])
@torch.no_grad()
def test_round_trip(
    tmp_path: Path, name: str, size: tuple[int, int], channels: int, args: dict[str, Any]
) -> None:
    model = save(tmp_path, name, size, channels, **args)
    images = torch.randn(2, channels, *size)
    trained = load_exported(tmp_path)
    assert torch.equal(trained.model(images), model(images))
    assert trained.class_names == NAMES
    assert trained.preprocessing == preprocessing(size, channels)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(theirs(images), model(images))
    cfg: dict[str, Any] = theirs.pretrained_cfg  # type: ignore[assignment]
    assert cfg["mean"] == [0.5] * channels


def test_a_model_with_nan_does_not_replace_a_good_one(tmp_path: Path) -> None:
    model = save(tmp_path, "cifar_resnet8", (16, 16), 3)
    good = model.state_dict()["bn1.running_mean"].clone()
    model.state_dict()["bn1.running_mean"][0] = float("nan")
    with pytest.raises(VitrellisError, match=r"not written: bn1\.running_mean"):
        save_model(
            model,
            tmp_path,
            architecture="cifar_resnet8",
            num_classes=3,
            model_args={},
            class_names=NAMES,
            preprocessing=preprocessing((16, 16), 3),
        )
    assert torch.equal(load_exported(tmp_path).model.state_dict()["bn1.running_mean"], good)


def test_predict_takes_any_sizes(tmp_path: Path) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    trained = load_exported(tmp_path)
    images = [torch.zeros(3, h, 30, dtype=torch.uint8) for h in (10, 50)]
    probabilities = trained.predict(images)
    assert probabilities.shape == (2, 3)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("shape", [(20, 20), (9, 30)])
def test_predictions_are_those_of_timm(tmp_path: Path, shape: tuple[int, int]) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    images = torch.randint(0, 256, (300, 3, *shape), dtype=torch.uint8)  # more than one batch
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.no_grad():
        expected = model(torch.stack([transform(p) for p in pictures])).softmax(dim=1)
    torch.testing.assert_close(load_exported(tmp_path).predict(images), expected)


@pytest.mark.parametrize(("fit", "crop_mode"), [("squash", "squash"), ("crop", "center")])
def test_a_model_of_an_earlier_version(tmp_path: Path, fit: str, crop_mode: CropMode) -> None:
    """It is used as it described itself to timm, and says so."""
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    config = unsealed(tmp_path / "config.json")
    config["pretrained_cfg"] |= {"crop_pct": 1.0, "crop_mode": crop_mode}
    old = {"canvas": [18, 18], "fit": fit}
    keys = ("img_size", "channels", "mean", "std", "interpolation")
    written = config["vitrellis"]["preprocessing"]
    config["vitrellis"]["preprocessing"] = old | {key: written[key] for key in keys}
    (tmp_path / "config.json").write_text(json.dumps(config))
    trained = load_exported(tmp_path)
    expected = replace(preprocessing((16, 16), 3), crop_pct=1.0, crop_mode=crop_mode)
    assert trained.preprocessing == expected
    assert len(trained.notes) == 1
    assert "earlier version" in trained.notes[0]


def test_predict_nothing(tmp_path: Path) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    assert load_exported(tmp_path).predict([]).shape == (0, 3)


@pytest.mark.parametrize("wrong", [torch.zeros(1, 9, 9, dtype=torch.uint8), torch.zeros(3, 9, 9)])
def test_predict_refuses_other_images(tmp_path: Path, wrong: torch.Tensor) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    with pytest.raises(VitrellisError, match="image 0: should be uint8"):
        load_exported(tmp_path).predict([wrong])


def test_predict_takes_an_iterator(tmp_path: Path) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    trained = load_exported(tmp_path)
    images = torch.randint(0, 256, (3, 3, 9, 12), dtype=torch.uint8)
    assert trained.predict(image for image in images).equal(trained.predict(images))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "images: is a NoneType; should be a tensor"),
        (3, "images: is a int"),
        ({"a": 1}, "images: is a dict"),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), r"\(3, 9, 9\); should be .* given as \[image\]"),
        (torch.zeros(2, 3, 0, 9, dtype=torch.uint8), r"image 0: has no pixels: .*\(3, 0, 9\)"),
        ([torch.zeros(3, 9, 0, dtype=torch.uint8)], r"image 0: has no pixels: .*\(3, 9, 0\)"),
        (torch.zeros(2, 3, 9, 9, dtype=torch.uint8, device="meta"), "device meta"),
    ],
)
def test_predict_says_what_it_takes(tmp_path: Path, wrong: Any, said: str) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    with pytest.raises(VitrellisError, match=said):
        load_exported(tmp_path).predict(wrong)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_predict_needs_a_name_for_each_image(tmp_path: Path, names: list[str]) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    images = torch.zeros(2, 3, 9, 9, dtype=torch.uint8)
    with pytest.raises(VitrellisError, match=f"names: {len(names)} for 2 images"):
        load_exported(tmp_path).predict(images, names)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def not_ours(folder: Path) -> None:
    (folder / "config.json").write_text('{"architecture": "resnet18"}')


def another_model(folder: Path) -> None:
    config = unsealed(folder / "config.json")
    config["architecture"] = "cifar_resnet14"
    (folder / "config.json").write_text(json.dumps(config))


def a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def bytes_in_json(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\x00")


def changed(**values: object) -> Callable[[Path], None]:
    """Puts other values into what we wrote; `None` takes a key away."""

    def spoil(folder: Path) -> None:
        config = unsealed(folder / "config.json")
        config["vitrellis"] |= values
        config["vitrellis"] = {k: v for k, v in config["vitrellis"].items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "model.safetensors: damaged"),
        (no_weights, "model.safetensors: no such file"),
        (no_json, "config.json: .*damaged"),
        (not_ours, "not written by Vitrellis"),
        (a_list, "not written by Vitrellis"),
        (bytes_in_json, "config.json: .*damaged"),
        (changed(class_names=None), r"config.json: damaged \(class_names: Field required"),
        (changed(class_names=["ash"]), r"of another shape: \S+ \(3,"),
        (changed(preprocessing={"fit": "squash"}), r"damaged \(preprocessing.img_size"),
        (changed(model_args={"legs": 4}), r"config.json: cifar_resnet8 refuses legs=4"),
        (another_model, "not the weights of this model: missing: stages"),
    ],
)
def test_damaged(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    save(tmp_path, "cifar_resnet8", (16, 16), 3)
    spoil(tmp_path)
    with pytest.raises(VitrellisError, match=message) as raised:
        load_exported(tmp_path)
    assert str(raised.value).startswith(str(tmp_path))
    assert raised.value.exit_code == 1


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match=r"holds no model \(no config\.json\)"):
        load_exported(tmp_path / "nowhere")


def test_another_models_weights(tmp_path: Path) -> None:
    save(tmp_path / "a", "cifar_resnet8", (16, 16), 3)
    save(tmp_path / "b", "vit_micro_patch7_28", (28, 28), 3)
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(VitrellisError, match="not the weights of this model: missing: "):
        load_exported(tmp_path / "a")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    old = save(tmp_path, "cifar_resnet8", (16, 16), 3)

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:99])
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(VitrellisError, match=rf"model\.safetensors: {os.strerror(reason)}"):
        save(tmp_path, "cifar_resnet8", (16, 16), 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(load_exported(tmp_path).model(images), old(images))


KILLED = """
import resource, signal, sys
from pathlib import Path
from vitrellis.models import create_model
from vitrellis.runs.exported import Preprocessing, save_model

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills what writes beyond the limit
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
model = create_model("cifar_resnet8", num_classes=2)
save_model(
    model,
    Path(sys.argv[1]),
    architecture="cifar_resnet8",
    num_classes=2,
    model_args={},
    class_names=["a", "b"],
    preprocessing=Preprocessing((8, 8), 3, (0.5,) * 3, (0.2,) * 3, "bilinear"),
)
"""


def test_a_kill_within_the_weights_leaves_nothing_for_good(tmp_path: Path) -> None:
    """What is left has the one name that the next writing takes away."""
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert ended.returncode == -signal.SIGXFSZ
    assert [file.name for file in tmp_path.iterdir()] == [".model.safetensors.tmp"]


def test_paths_and_pillow_images_give_what_their_pixels_give(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", num_classes=3)
    save_model(
        model,
        tmp_path / "model",
        architecture="cifar_resnet8",
        num_classes=3,
        model_args={},
        class_names=NAMES,
        preprocessing=preprocessing((16, 16), 3),
    )
    trained = load_exported(tmp_path / "model")
    pixels = torch.randint(0, 256, (20, 12, 3), dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = tmp_path / "a.png"
    picture.save(path, exif=exif)
    upright = pixels.permute(2, 0, 1).rot90(-1, (1, 2))
    expected = trained.predict([upright])
    for given in (path, str(path), [path], Image.open(path), [Image.open(path)]):
        torch.testing.assert_close(trained.predict(given), expected, rtol=0, atol=0)
    grey = trained.predict([picture.convert("L"), upright])
    as_colour = torch.from_numpy(np.array(picture.convert("L"))).expand(3, -1, -1)
    torch.testing.assert_close(grey, trained.predict([as_colour, upright]))
    for wrong, said in (
        (tmp_path / "missing.png", "missing.png: no such file"),
        ([upright, 7], "image 1: is a int; should be a path"),
        ([upright[:2]], r"image 0: should be uint8 of shape \(3, H, W\)"),
    ):
        with pytest.raises(VitrellisError, match=said):
            trained.predict(wrong)  # type: ignore[arg-type]
