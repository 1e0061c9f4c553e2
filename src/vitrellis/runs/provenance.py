"""What made a run: `provenance.json` says when, where and by what command it was started."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vitrellis.errors import VitrellisError
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow", "simplejpeg")
"""The packages on whose versions figures may depend."""

PACKAGE = Path(__file__).parents[1]
"""The folder of this package."""

_TIMEOUT = 5  # seconds in which git has to answer


def record_start(file: Path) -> None:
    """Adds this process's start to a file, which is made if it is missing.

    Args:
        file: `provenance.json` of a run that is locked.

    Raises:
        VitrellisError: If the file is damaged, or cannot be written.
    """
    before = read_sealed_json(file)["starts"] if file.exists() else []
    run = {"run": str(file.parent.resolve())}
    write_sealed_json(file, {"starts": [*before, {**this_start(), **run}]})


def folders_of_starts(file: Path) -> list[Path]:
    """The folders in which a run was started, from which its relative paths start.

    Behind them are the places of the same folders beside the run as it is now, in case it was moved
    together with what it was trained on.

    Args:
        file: `provenance.json` of the run.

    Returns:
        The folders, the latest first; none if the file is missing or damaged.
    """
    try:
        starts = read_sealed_json(file)["starts"] if file.exists() else []
    except VitrellisError:  # which `vitrellis verify` tells of; the run can be used without it
        return []
    starts.reverse()
    moved = [
        file.parent.resolve() / os.path.relpath(start["folder"], start["run"])
        for start in starts
        if "run" in start and Path(start["folder"]).drive == Path(start["run"]).drive
    ]
    return [*(Path(start["folder"]) for start in starts), *moved]


def this_start() -> Mapping[str, Any]:
    """The facts about this process."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "vitrellis": sys.modules[PACKAGE.name].__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": platform.node(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _commit() -> str | None:
    """The commit of the working tree that this package is in; None where it is installed."""
    if not (PACKAGE.parents[1] / ".git").exists():
        return None
    try:
        asked = ("git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40")
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not a repository that it trusts
        return None
    return said.stdout.strip() or None
