"""Checkpoints as other training codes write them: wrapped, prefixed, in folders, in parts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv, save_for_hf
from torch import Tensor, nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, read_state_dict
from vitrellis.models.support.described_models import read_description

VIT = "vit_micro_patch4_28"


def weights(name: str = VIT, in_chans: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return create_model(name, num_classes=3, in_chans=in_chans).state_dict()


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def is_loaded(path: Path, state: Mapping[str, Tensor]) -> bool:
    torch.manual_seed(8)
    loaded = create_model(VIT, num_classes=3, weights=path).state_dict()
    return all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "module._orig_mod.", "_orig_mod."])
def test_what_parallel_and_compiled_training_put_in_front(tmp_path: Path, prefix: str) -> None:
    torch.save({"model": {"state_dict": prefixed(weights(), prefix)}}, tmp_path / "w.pt")
    assert is_loaded(tmp_path / "w.pt", weights())


def test_names_that_torch_compile_itself_writes(tmp_path: Path) -> None:
    model = create_model(VIT, num_classes=3)
    blocks = model.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    blocks[0] = torch.compile(blocks[0])  # type: ignore[assignment]
    assert any("_orig_mod" in name for name in model.state_dict())
    torch.save(nn.DataParallel(model).state_dict(), tmp_path / "w.pt")
    expected = {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()}
    assert is_loaded(tmp_path / "w.pt", expected)


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod.", "module.encoder.backbone."])
def test_a_model_inside_of_another_module(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    state = prefixed(weights(), prefix) | {"criterion.weight": torch.ones(3)}
    checkpoint = {"state_dict": state, "hyper_parameters": {"lr": 0.1}, "epoch": 3}
    torch.save(checkpoint, tmp_path / "lightning.ckpt")
    with caplog.at_level(logging.WARNING):
        assert is_loaded(tmp_path / "lightning.ckpt", weights())
    assert "not taken: criterion.weight" in caplog.text


def test_two_models_in_one_file(tmp_path: Path) -> None:
    twice = prefixed(weights(), "student.") | prefixed(weights(), "teacher.")
    torch.save(twice, tmp_path / "two.pt")
    with pytest.raises(VitrellisError, match=r"several models .* under student\., teacher\."):
        create_model(VIT, num_classes=3, weights=tmp_path / "two.pt")
    torch.save(twice | prefixed(weights(), "model."), tmp_path / "three.pt")
    assert is_loaded(tmp_path / "three.pt", weights())


def test_a_folder_in_the_format_of_hugging_face(tmp_path: Path) -> None:
    model = create_model(VIT, num_classes=3)
    save_for_hf(model, str(tmp_path / "bin"), safe_serialization=False)
    save_for_hf(model, str(tmp_path / "safe"), safe_serialization=True)
    for folder in ("bin", "safe"):
        assert is_loaded(tmp_path / folder, model.state_dict())
    (tmp_path / "empty").mkdir()
    with pytest.raises(VitrellisError, match="no weights are in this folder"):
        read_state_dict(tmp_path / "empty")


def test_weights_in_parts(tmp_path: Path) -> None:
    state = weights()
    halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name)
    listed = {name: names[number] for number, half in enumerate(halves) for name in half}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    assert is_loaded(tmp_path, state)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(VitrellisError, match="no file beside it"):
        read_state_dict(tmp_path)
    index.write_text("[]")
    with pytest.raises(VitrellisError, match="not an index"):
        read_state_dict(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["pvt_v2_b0", "cifar_resnet8", "dhvt_micro_patch4", "cvt_13"])
def test_a_first_layer_for_other_channels(tmp_path: Path, name: str) -> None:
    state = weights(name)
    torch.save(state, tmp_path / "colour.pt")
    for channels in (1, 5):
        model = create_model(name, num_classes=3, in_chans=channels, weights=tmp_path / "colour.pt")
        first = f"{model.pretrained_cfg['first_conv']}.weight"  # type: ignore[index]
        expected = adapt_input_conv(channels, state[first])
        assert torch.equal(model.state_dict()[first], expected)


@torch.no_grad()
def test_weights_for_grey_images_see_the_same_in_colour(tmp_path: Path) -> None:
    torch.save(weights(in_chans=1), tmp_path / "grey.pt")
    grey = create_model(VIT, num_classes=3, in_chans=1, weights=tmp_path / "grey.pt").eval()
    colour = create_model(VIT, num_classes=3, weights=tmp_path / "grey.pt").eval()
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(colour(images.expand(2, 3, 28, 28)), grey(images))


def test_a_model_of_a_folder(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2, img_size=32)
    save_for_hf(theirs, str(tmp_path / "vit"), model_args={"depth": 2, "img_size": 32})
    ours = create_model(
        f"local-dir:{tmp_path / 'vit'}", num_classes=5, img_size=32, pretrained=True
    )
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])
    untrained = create_model(f"local_dir:{tmp_path / 'vit'}", num_classes=2, img_size=48, depth=3)
    assert len(untrained.blocks) == 3  # type: ignore[arg-type]
    with pytest.raises(VitrellisError, match=r"there is no .*config\.json"):
        create_model(f"local-dir:{tmp_path}", num_classes=2)


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_model_of_the_hub_is_taken_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """The cache has the layout that huggingface_hub documents; no request is made."""
    repository = tmp_path / "models--someone--vit"
    snapshot = repository / "snapshots" / "0a1b"
    theirs = create_model(VIT, num_classes=5)
    save_for_hf(theirs, str(snapshot), safe_serialization=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0a1b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ours = create_model(f"hf_hub:someone/vit{revision}", num_classes=5, pretrained=True)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


def test_a_model_of_the_hub_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VitrellisError, match=r"hf_hub:a/b: could not be downloaded"):
        create_model("hf_hub:a/b", num_classes=5, pretrained=True)
    with pytest.raises(UsageError, match="should be hf_hub:OWNER/NAME"):
        create_model("hf_hub:a/b/c", num_classes=5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "has no architecture"),
        ({"model_type": "vit"}, r"of transformers \(vit\)"),
        ({"architecture": "no_such"}, "which timm does not have"),
        ({"architecture": VIT, "model_args": [1]}, "should be a mapping"),
        ({"architecture": VIT, "model_args": {"checkpoint_path": "x"}}, "checkpoint_path"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path: Path, values: object, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(VitrellisError, match=said):
        read_description(tmp_path / "config.json", "local-dir:x")
