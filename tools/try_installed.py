"""Installs the wheel into a new environment and runs the main commands there.

The lowest versions that `pyproject.toml` allows show whether its bounds are true, and other
interpreters whether the package runs there. Needs uv (`pip install uv`), which can resolve to the
lowest versions. With `--no-index` and `--find-links`, uv's own options, nothing is downloaded:

    python tools/try_installed.py --resolution lowest-direct
    python tools/try_installed.py --python 3.13
    python tools/try_installed.py --python 3.12 --extra all -- --find-links wheels
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

SMALL = (
    "data.train_size=60",
    "training.epochs=1",
    "training.batch_size=20",
    "schedule.warmup_epochs=0",
)

TEACHER = "teacher.overrides=[training.epochs=1, schedule.warmup_epochs=0]"

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("train", "demo-lg", *SMALL, TEACHER, "--out", "guided"),
    ("eval", "guided"),
    ("predict", "guided", "picture.png", "--json"),
    ("compare", "demo-alone", "cifar-teacher.yaml", *SMALL, "--seeds", "2", "--out", "compared"),
    ("verify", "guided"),
)

SECOND_RECIPE = "extends: demo-alone\nmodel: {name: cifar_resnet8, args: null}\n"


def main() -> None:
    """Makes the environment, runs the commands, and ends with the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument(
        "--resolution", choices=["highest", "lowest-direct", "lowest"], default="highest"
    )
    parser.add_argument("--extra", default="", help="an extra to install as well, such as all")
    parser.add_argument("--again", action="store_true", help="only run the commands again")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("more", nargs="*", help="further options of uv pip install, after --")
    options = parser.parse_args()
    if shutil.which("uv") is None:
        parser.error("uv is not there; pip install uv")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        python = folder / "environment" / "bin" / "python"
        if not options.again:
            install(folder, options.python, options.resolution, options.extra, options.more)
        sys.exit(run_commands(folder, python))


def install(
    folder: Path, interpreter: str, resolution: str, extra: str, more: Sequence[str]
) -> Path:
    """Builds the wheel and installs it; returns the environment's interpreter."""
    run("uv", "build", "--quiet", "--wheel", "--out-dir", str(folder / "dist"), str(ROOT))
    (wheel,) = (folder / "dist").glob("*.whl")
    run("uv", "venv", "--clear", "--python", interpreter, str(folder / "environment"))
    python = folder / "environment" / "bin" / "python"
    chosen = folder / "requirements.txt"
    run(
        *("uv", "pip", "compile", "--quiet", str(ROOT / "pyproject.toml"), "--no-annotate"),
        *("--python", str(python), "--resolution", resolution, "--output-file", str(chosen)),
        *(("--extra", extra) if extra else ()),
        *more,
    )
    into = ("uv", "pip", "install", "--quiet", "--python", str(python))
    run(*into, "--requirements", str(chosen), *more)
    run(*into, "--no-deps", str(wheel))
    return python


def run_commands(folder: Path, python: Path) -> int:
    """Runs all commands, and returns the first exit code that is not 0."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "cifar-teacher.yaml").write_text(SECOND_RECIPE)
    write = "from PIL import Image; Image.new('L', (28, 28), 90).save('picture.png')"
    run(str(python), "-c", write, cwd=work)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words in COMMANDS:
        command = [str(python), "-W", "error::DeprecationWarning:vitrellis", "-m", "vitrellis"]
        print("$ vitrellis", *words, flush=True)  # noqa: T201
        code = subprocess.run([*command, *words], cwd=work, env=environment, check=False).returncode
        if code:
            return code
    return 0


def run(*command: str, cwd: Path | None = None) -> None:
    """Runs a command that has to succeed."""
    print("$", *command, flush=True)  # noqa: T201
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main()
