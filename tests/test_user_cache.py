"""The folder of what can be computed again, and what torch.compile keeps in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from vitrellis.models.support.taps import tapped_forward
from vitrellis.user_cache import keep_compiled_code, user_cache


def test_the_folder_is_that_of_the_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert user_cache() == tmp_path / "caches" / "vitrellis"
    for other in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        assert user_cache() == tmp_path / ".cache" / "vitrellis"


def test_a_folder_that_the_user_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


@pytest.mark.slow
def test_compiled_code_is_kept_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    images = torch.zeros(2, 3, 8, 8)
    model(images)
    logits, maps = tapped_forward(compiled=True)(model, images, [])
    assert isinstance(logits, torch.Tensor)
    assert (logits.shape, maps) == ((2, 2), [])
    assert any((tmp_path / "vitrellis" / "compiled").rglob("*.cpp"))
