r"""Does locality guidance train here as in its published code? Runs both on the same images.

The student is the published one (DeiT-Ti, guided by ResNet-56) with the published settings, on a
part of CIFAR-100, at fewer pixels and for fewer epochs, so that a processor can do it. The teacher
is trained by the published code, and imported here. What is compared is the mean of each loss in
each epoch, and the accuracy on the test images after the last epoch, for several seeds of each.

    python -m tools.reproduce_published --images images --runs runs/reproduction \
        --published tiny-transformers --python .venv-published/bin/python --seeds 0 1 2

`--published` is a checkout of github.com/lkhl/tiny-transformers, and `--python` belongs to an
environment that can import this package and what `tools/published_run.py` names. A seed that is in
`docs/results/reproduction.json` is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tools.results_tables import RESULTS
from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.atomic import write_json
from vitrellis.runs.directory import RunDirectory

FILE = RESULTS / "reproduction.json"
IMAGES, PIXELS, EPOCHS, WARMUP = 2500, 64, 15, 2
"""Training images, the side of the student's in pixels, epochs, and those of the warm-up.

The published run has 50,000, 224, 300 and 20."""


@dataclass(frozen=True)
class Reproduction:
    """Both codes, and where they work.

    Attributes:
        images: The folder with `cifar-100-python`.
        runs: The folder of the runs.
        checkout: The published code.
        python: The Python that runs it.
    """

    images: Path
    runs: Path
    checkout: Path
    python: Path

    @property
    def teacher(self) -> Path:
        """The run of the teacher."""
        return self.runs / "teacher"

    def teacher_top1(self) -> float:
        """The teacher's accuracy on the test images; it is trained and imported if need be."""
        if not RunDirectory(self.teacher).exists():
            self._train_teacher()
        rows = (self.runs / "published-teacher.jsonl").read_text().splitlines()
        return float(json.loads(rows[-1])["top1"])

    def _train_teacher(self) -> None:
        """Trains the teacher by the published code, and imports it."""
        self._published("teacher", 1, "resnet/r-56_c100.yaml", [])
        words = [self.runs / "published-teacher" / "model.pyth", "--source", "tiny-transformers"]
        words += ["--model", "cifar_resnet56", "--out", self.teacher, "data.source=cifar100"]
        words += [f"data.root={self.images}", "input.img_size=32", "input.normalization=imagenet"]
        self._run([sys.executable, "-m", "vitrellis", "import", *words], self.runs)

    def published(self, seed: int) -> list[dict[str, float]]:
        """Trains the student by the published code; returns its rows."""
        weights = self.runs / "published-teacher" / "model.pyth"
        changes = ["DISTILLATION.TEACHER_WEIGHTS", weights, "MODEL.IMG_SIZE", PIXELS]
        changes += ["OPTIM.WARMUP_EPOCHS", WARMUP]
        return self._published(f"seed{seed}", seed, "deit/deit-ti_c100_ours.yaml", changes)

    def ours(self, seed: int) -> list[dict[str, float]]:
        """Trains the student here; returns its rows."""
        out = self.runs / f"ours-seed{seed}"
        words = ["cifar100-deit-ti-lg", f"data.root={self.images}", f"data.train_size={IMAGES}"]
        words += [f"input.img_size={PIXELS}", f"training.epochs={EPOCHS}", f"seed={seed}"]
        words += [f"schedule.warmup_epochs={WARMUP}", "machine.threads=1", "machine.workers=0"]
        words += ["teacher.recipe=null", f"teacher.run={self.teacher}", "teacher.overrides=[]"]
        self._run([sys.executable, "-m", "vitrellis", "train", *words, "--out", out], self.runs)
        run = RunDirectory(out)
        rows = [{"epoch": row.epoch, **row.parts} for row in run.read_metrics()]
        last = run.read_results().last
        assert last.test is not None  # CIFAR-100 has test images
        return [*rows, {"top1": last.test.top1}]

    def _published(
        self, name: str, seed: int, config: str, changes: Sequence[object]
    ) -> list[dict[str, float]]:
        rows = self.runs / f"published-{name}.jsonl"
        out = self.runs / f"published-{name}"
        words = [self.checkout, rows, IMAGES, seed, config, "OUT_DIR", out]
        words += ["OPTIM.MAX_EPOCH", EPOCHS, *changes]
        script = Path(__file__).with_name("published_run.py")
        self.runs.mkdir(parents=True, exist_ok=True)
        data = self.runs / "data"
        if not data.exists():
            data.symlink_to(self.images)
        self._run([self.python, script, *words], self.runs)
        return [json.loads(line) for line in rows.read_text().splitlines()]

    def _run(self, command: Sequence[object], folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=True)


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("images"), help="holds CIFAR-100")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"), help="for the runs")
    parser.add_argument("--published", type=Path, required=True, help="a checkout of their code")
    parser.add_argument("--python", type=Path, required=True, help="the Python that runs it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # as every run has
    both = Reproduction(
        options.images.resolve(),
        options.runs.resolve(),
        options.published.resolve(),
        options.python.absolute(),
    )
    teacher_top1 = both.teacher_top1()
    for seed in options.seeds:
        for code in ("published", "ours"):
            if not any(row["code"] == code and row["seed"] == seed for row in _kept()):
                rows = both.published(seed) if code == "published" else both.ours(seed)
                _keep(code, seed, rows, teacher_top1)
    return 0


def _kept() -> list[dict[str, Any]]:
    return json.loads(FILE.read_text())["rows"] if FILE.exists() else []


def _keep(code: str, seed: int, rows: list[dict[str, float]], teacher_top1: float) -> None:
    *epochs, last = rows
    row = {"code": code, "seed": seed, "hardware": describe_hardware(), "top1": last["top1"]}
    content = {
        "command": "python -m tools.reproduce_published --seeds ...",
        "images": IMAGES,
        "pixels": PIXELS,
        "epochs": EPOCHS,
        "warmup_epochs": WARMUP,
        "teacher_top1": teacher_top1,
        "rows": [*_kept(), {**row, "curve": epochs}],
    }
    write_json(FILE, content)
    Console().print(f"{code}, seed {seed}: {100 * last['top1']:.1f} % of the test images")


if __name__ == "__main__":
    sys.exit(main())
