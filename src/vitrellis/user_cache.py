"""The folder of what can be computed again, shared by all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`vitrellis` in `$XDG_CACHE_HOME`, or in `~/.cache`.

    A relative path in the variable is ignored, as the XDG Base Directory Specification says.

    Returns:
        None for a user without a home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        above = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return above / "vitrellis"


def keep_compiled_code() -> None:
    """Lets torch.compile keep what it compiles, so that later runs need not compile it again.

    Its own place is the folder for temporary files, which the system empties.
    `TORCHINDUCTOR_CACHE_DIR` names another one.
    """
    folder = user_cache()
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
