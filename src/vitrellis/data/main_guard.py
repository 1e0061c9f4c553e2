"""Whether further processes may be started from the user's script.

Where processes are spawned (macOS, Windows, and Python 3.14), each of them runs the script again,
and so begins the same training, unless the script's calls are guarded.
"""

from __future__ import annotations

import ast
import multiprocessing
import sys
from pathlib import Path
from types import FrameType

from vitrellis.errors import UsageError


def check_main_guard() -> None:
    """Refuses to start a process that would run an unguarded script again.

    Raises:
        UsageError: If the script has called us outside of `if __name__ == "__main__":`.
    """
    if multiprocessing.get_start_method() == "fork":
        return
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    line = None if script is None else _line_of_script(script)
    if script is None or line is None or _is_guarded(Path(script), line):
        return
    raise UsageError(
        f"{script}: line {line}: images are read by processes of their own, and each of them would "
        'run this script from its beginning. Put its calls under `if __name__ == "__main__":`, or '
        "use machine.workers=0"
    )


def _line_of_script(script: str) -> int | None:
    """The line of the script that is being run; None if it was not the script that called us."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and code.co_filename == script:
            return frame.f_lineno
        frame = frame.f_back
    return None


def _is_guarded(script: Path, line: int) -> bool:
    """Whether a line is in a block that begins with a condition on `__name__`."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # it cannot be told
    return any(
        isinstance(node, ast.If)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and any(
            isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
        )
        for node in tree.body
    )
