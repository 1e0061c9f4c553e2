"""JSON files of datasets: read whole, with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrellis.data.formats import read_file
from vitrellis.errors import VitrellisError


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        VitrellisError: If it is missing or damaged.
    """
    content = read_file(file)
    try:
        return parse_json(content)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VitrellisError(f"{file}: is not JSON, or damaged or cut off ({error})") from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. NaN and infinity, which Python's own reader takes, are not JSON.

    Raises:
        json.JSONDecodeError: If it is not JSON.
    """
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise json.JSONDecodeError(f"{constant} is no number of JSON", constant, 0)


def records(values: Any, keys: Mapping[str, type], file: Path, where: str) -> list[dict[str, Any]]:
    """A list of objects that have certain keys.

    Args:
        values: A value that should be such a list.
        keys: The type of each key's value.
        file: The file's name in the message.
        where: The list's name in the message.

    Raises:
        VitrellisError: If it is something else; names the first object that is wrong.
    """
    if not isinstance(values, list):
        raise VitrellisError(f"{file}: {where} should be a list, and is a {type(values).__name__}")
    for number, value in enumerate(values):
        for key, kind in keys.items():
            if not isinstance(value, dict) or type(value.get(key)) is not kind:
                raise VitrellisError(
                    f"{file}: item {number} of {where} should have {key!r} of type "
                    f"{kind.__name__}; it is {str(value)[:80]}"
                )
    return values
