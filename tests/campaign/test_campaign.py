"""A small part of the campaign, and proof that it can find something."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.campaign import inputs
from tests.campaign.__main__ import KINDS
from tests.campaign.writes import COMMANDS, FAULTS, loaded_shim
from tests.cli import command
from tests.training.command import FEW_IMAGES, write_few_images

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the shim is written in C")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundredth_of_the_campaign(kind: str, tmp_path: Path) -> None:
    found = KINDS[kind](tmp_path, 0.01, 11)
    assert found.ends.total() > 0
    assert found.wrong == []


@pytest.mark.slow
def test_the_shim_lets_a_write_fail(tmp_path: Path) -> None:
    """The system's message reaches the user; without the shim the same command succeeds."""
    (tmp_path / "runs").mkdir()
    write_few_images((FEW_IMAGES,), tmp_path)
    words = [*COMMANDS["alone"], "--out", "runs/x"]
    with loaded_shim(tmp_path) as shim:
        ended = shim.run(words, tmp_path, mode=FAULTS["full disk"], at=20)
        assert ended.code == 1
        assert "No space left on device" in ended.printed
        assert shim.run(words, tmp_path, mode=FAULTS["kill"], at=20).code == -signal.SIGKILL
        assert shim.run(words, tmp_path).code == 0


def test_a_traceback_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*words: str, cwd: Path) -> None:
        raise KeyError(words, cwd)

    assert inputs.trial(["recipes", "show", "demo"], tmp_path) == ("exit 0", None)
    monkeypatch.setattr(inputs, "vitrellis", fail)
    end, wrong = inputs.trial(["recipes"], tmp_path)
    assert end == "traceback"
    assert wrong is not None
    assert "KeyError" in wrong
    monkeypatch.setattr(inputs, "vitrellis", command.vitrellis)
    (tmp_path / "canary").touch()
    assert inputs.trial(["recipes", "show", "demo"], tmp_path)[1] == "a payload was executed"
