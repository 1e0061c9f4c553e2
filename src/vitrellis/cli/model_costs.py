"""The costs of models, counted once and kept in the user's cache folder.

Counting all of the listed models takes half a minute of processor time. The file is named after
the versions of timm and torch and after the content of our own models, so that another version
counts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from pathlib import Path

from vitrellis.data.formats.json_files import read_json
from vitrellis.errors import VitrellisError
from vitrellis.runs.atomic import write_json
from vitrellis.user_cache import user_cache


class ModelCosts:
    """Parameters and multiply-adds, read from the cache when this is made.

    A cache that is missing, damaged or cannot be written is no error.

    Args:
        folder: The cache folder; by default that of the user.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._known: dict[str, list[int]] = {}
        self._has_new = False
        folder = folder or user_cache()
        self._file = None if folder is None else folder / f"model-costs-{_versions()}.json"
        if self._file is None:
            return
        with contextlib.suppress(VitrellisError):
            found = read_json(self._file)
            if isinstance(found, dict):
                self._known = {key: value for key, value in found.items() if _is_cost(value)}

    def get(self, name: str, num_classes: int, size: tuple[int, int]) -> tuple[int, int]:
        """The parameters and the multiply-adds of a model.

        Args:
            name: The name of the model.
            num_classes: The number of classes.
            size: `(H, W)` of the image, in pixels.
        """
        key = f"{name} {num_classes} {size[0]}x{size[1]}"
        if key not in self._known:
            self._known[key] = list(count(name, num_classes, size))
            self._has_new = True
        parameters, macs = self._known[key]
        return parameters, macs

    def keep(self) -> None:
        """Writes the cache, if anything was counted."""
        if self._has_new and self._file is not None:
            with contextlib.suppress(VitrellisError):
                write_json(self._file, self._known)


def count(name: str, num_classes: int, size: tuple[int, int]) -> tuple[int, int]:
    """Counts the parameters and the multiply-adds of a model.

    Args:
        name: The name of the model.
        num_classes: The number of classes.
        size: `(H, W)` of the image, in pixels.
    """
    import torch

    from vitrellis.analysis.cost import count_macs
    from vitrellis.models import create_model

    with torch.device("meta"):  # shapes without memory
        model = create_model(name, num_classes=num_classes)
    return sum(parameter.numel() for parameter in model.parameters()), count_macs(model, (3, *size))


def _versions() -> str:
    """A digest of everything that decides the counts."""
    import vitrellis.models

    digest = hashlib.sha256()
    for package in ("timm", "torch"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for file in sorted(Path(vitrellis.models.__path__[0]).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _is_cost(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(number) is int and number >= 0 for number in value)
