"""Arguments for our transformers with one block of each kind: exporters take seconds for each."""

from __future__ import annotations

from typing import Any

ONE_BLOCK: dict[str, dict[str, Any]] = {
    "cvt": {"depths": (1, 1, 1)},
    "evit": {"depth": 1, "drop_layers": (0,)},
    "pvt": {"depths": (1, 1, 1, 1)},
    "dhvt": {"depth": 1},
    "t2t": {"depth": 1},
    "vit": {"depth": 1},
}
"""By the beginning of a name."""
