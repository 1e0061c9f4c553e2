"""Files of runs that a test changes, and that are to be read nevertheless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def unsealed(file: Path) -> dict[str, Any]:
    """The content of a JSON file without its checksum, as earlier versions wrote it."""
    values: dict[str, Any] = json.loads(file.read_text())
    values.pop("sha256", None)
    return values
