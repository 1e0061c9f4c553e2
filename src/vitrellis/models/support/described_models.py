"""Models that a `config.json` describes: of a folder (`local-dir:`), or of the Hub (`hf_hub:`).

Such a name stands for an architecture, its arguments, and a folder with weights, as in timm. The
weights are read by our own readers, which execute nothing, and no address that the file names is
followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models.support.arguments import check_arguments
from vitrellis.models.support.checkpoint_names import WEIGHTS_IN_FOLDER, parts_of

CONFIG = "config.json"

_HUB = re.compile(r"^hf[-_]hub:", re.IGNORECASE)
_FOLDER = re.compile(r"^local[-_]dir:", re.IGNORECASE)
_GIVEN_BY_US = ("num_classes", "img_size", "in_chans", "pretrained")


@dataclass(frozen=True)
class DescribedModel:
    """What a `config.json` says of a model.

    Attributes:
        architecture: Its name in timm's registry.
        args: Further arguments of it.
        mean: The mean of each channel that its images were normalised by; None if not known.
        std: The standard deviation of each channel; None if not known.
    """

    architecture: str
    args: Mapping[str, Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def is_described(name: str) -> bool:
    """Whether a model's name is that of a folder or of the Hub."""
    return isinstance(name, str) and bool(_HUB.match(name) or _FOLDER.match(name))


def folder_of(name: str, *, with_weights: bool) -> Path:
    """The folder with the `config.json`, and the weights, of a model that has such a name.

    Files of the Hub are downloaded once; those that were downloaded are taken without asking it.

    Args:
        name: `local-dir:FOLDER`, or `hf_hub:OWNER/NAME`, with `@REVISION` behind it or not.
        with_weights: Whether weights are needed.

    Raises:
        VitrellisError: If there is no such folder, or the files cannot be downloaded.
    """
    if _FOLDER.match(name):
        folder = Path(_FOLDER.sub("", name)).expanduser()
        if not (folder / CONFIG).is_file():
            raise VitrellisError(
                f"{name}: there is no {folder / CONFIG}. local-dir: names a folder in the format "
                "of timm, such as RUN/model"
            )
        return folder
    config = _downloaded(name, CONFIG)
    if config is None:
        raise VitrellisError(f"{name}: holds no {CONFIG}, so it is not a model of timm")
    if with_weights:
        _download_weights(name)
    return config.parent


def read_description(config: Path, name: str) -> DescribedModel:
    """The architecture and its arguments.

    Args:
        config: The file: timm's format, old or new, or that of our exported models.
        name: The name of the model, for messages.

    Raises:
        VitrellisError: If the file cannot be read, or is not of timm's format.
        UsageError: If it has arguments that are not a model's.
    """
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VitrellisError(f"{config}: cannot be read as JSON ({error})") from error
    values = values if isinstance(values, dict) else {}
    architecture = values.get("architecture")
    if not isinstance(architecture, str):
        kind = values.get("model_type")
        of = f", but of transformers ({kind})" if isinstance(kind, str) else ""
        raise VitrellisError(
            f"{name}: {config} is not a description of timm's{of}: it has no architecture"
        )
    if not timm.is_model(architecture.split(".")[0]):
        raise VitrellisError(f"{name}: {config} names {architecture!r}, which timm does not have")
    ours = values.get("vitrellis")
    args = (ours if isinstance(ours, dict) else values).get("model_args") or {}
    if not isinstance(args, dict):
        raise VitrellisError(f"{name}: model_args in {config} should be a mapping")
    kept = {key: value for key, value in args.items() if key not in _GIVEN_BY_US}
    check_arguments(kept, f"{config}: model_args")
    cfg = values.get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else values
    return DescribedModel(architecture, kept, _numbers(cfg.get("mean")), _numbers(cfg.get("std")))


def _numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        return None
    return tuple(float(value) for value in values) or None


def _download_weights(name: str) -> None:
    for file in WEIGHTS_IN_FOLDER:
        found = _downloaded(name, file)
        if found is None:
            continue
        if file.endswith(".index.json"):
            for part in parts_of(found):
                _downloaded(name, part.name)
        return
    raise VitrellisError(f"{name}: holds none of {', '.join(WEIGHTS_IN_FOLDER)}")


def _downloaded(name: str, file: str) -> Path | None:
    """A file of the Hub, from its cache if it is there; None if the Hub does not have it."""
    repository, _, revision = _HUB.sub("", name).partition("@")
    try:
        cached = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
        found = hf_hub_download(repository, file, revision=revision or None)
    except HFValidationError as error:
        raise UsageError(
            f"{name}: should be hf_hub:OWNER/NAME, or hf_hub:OWNER/NAME@REVISION ({error})"
        ) from error
    except EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError):  # of the cache, where the Hub was not reached
            raise _not_downloaded(name, error) from error
        return None
    except OSError as error:
        raise _not_downloaded(name, error) from error
    assert isinstance(found, str)
    return Path(found)


def _not_downloaded(name: str, error: Exception) -> VitrellisError:
    reason = " ".join(str(error).split())[:200]
    return VitrellisError(
        f"{name}: could not be downloaded from the Hub; is there a network, and does the name "
        f"exist? ({reason})"
    )
