from __future__ import annotations

from pathlib import Path

import pytest

from vitrellis.data.sources import SOURCES, load_source
from vitrellis.errors import UsageError, VitrellisError

WITHOUT_FOLDER = {"fashion-mnist", "elpv"}
"""Sources whose images lie in a package."""


def test_sources_are_loaded_by_name() -> None:
    assert load_source("fashion-mnist", None).name == "fashion-mnist"
    assert load_source("fashion-mnist", None, channels=3).channels == 3


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown source 'cifar-10'\. Did you mean 'cifar10'"):
        load_source("cifar-10", None)


def test_the_others_need_a_folder(tmp_path: Path) -> None:
    for name in set(SOURCES) - WITHOUT_FOLDER:
        with pytest.raises(VitrellisError, match=f"source '{name}' needs data.root"):
            load_source(name, None)
        with pytest.raises(VitrellisError, match=r"no such folder( or file)?: .*gone"):
            load_source(name, tmp_path / "gone")


def test_arguments_that_a_source_does_not_have() -> None:
    with pytest.raises(UsageError, match=r"data\.args\.level: source 'cifar10' takes no arguments"):
        load_source("cifar10", None, args={"level": "family"})
    with pytest.raises(UsageError, match=r"unknown argument .*'elpv'.* Did you mean 'classes'"):
        load_source("elpv", None, args={"class": 4})
