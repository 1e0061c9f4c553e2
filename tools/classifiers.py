"""What trains a classifier on a folder of photographs: this package, timm and Ultralytics."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vitrellis.runs.directory import RunDirectory

SETS: dict[str, tuple[str, ...]] = {
    "sign-digits": ("data.folds=5", "data.fold=0", "data.train_size=500"),
    "magnetic-tiles": ("data.folds=5", "data.fold=0"),
    "clothing": (),
}
"""The keys that `photos` needs for each set of images, beside its folder."""


# timm's own defaults are those for ImageNet (SGD, batches of 128, much smaller crops). These are
# the ones that were found best for the CNN that teaches in `photos`.
_TIMM = (
    "--opt adamw --weight-decay 0.05 --sched cosine --sched-on-updates --smoothing 0.1 "
    "--batch-size 32 --scale 0.6 1.0 --color-jitter 0 --crop-pct 1.0 "
    "--checkpoint-hist 1 --log-interval 1000 --device cpu -j 1 --seed 0"
)
CNN = (*_TIMM.split(), "--lr", "2e-3", "--warmup-epochs", "2")
VIT = (*_TIMM.split(), "--lr", "1e-3", "--warmup-epochs", "5", "--clip-grad", "1.0")
_ULTRALYTICS = ("pretrained=False", "batch=32", "workers=0", "device=cpu", "seed=0", "plots=False")


class Tool(Protocol):
    """What trains a model for a number of epochs, in a folder."""

    @property
    def name(self) -> str:
        """The tool, the model and the side of its images in pixels."""

    def command(self, out: Path, epochs: int) -> list[str]:
        """The command that trains, and writes into the folder `out`."""

    def validation(self, out: Path) -> float:
        """The best accuracy on the validation images."""

    def answers(self, out: Path) -> tuple[Sequence[str], Sequence[str]]:
        """The classes of the test images, and those that the best model answers with."""


@dataclass(frozen=True)
class Own:
    """A recipe of this package.

    Attributes:
        recipe: Its name.
        set: The name of the set of images.
        root: Their folder.
        images: The folder of the splits.
    """

    recipe: str
    set: str
    root: Path
    images: Path

    @property
    def name(self) -> str:
        """The recipe."""
        return self.recipe

    def command(self, out: Path, epochs: int | None = None) -> list[str]:
        """The command that trains, for as long as the recipe says if no epochs are given."""
        words = [self.recipe, f"data.root={self.root}", *SETS[self.set], "machine.threads=1"]
        if epochs is not None:  # a warm-up has to be shorter
            words += [f"training.epochs={epochs}", f"schedule.warmup_epochs={min(5, epochs - 1)}"]
        words += ["machine.workers=0", "--out", str(out)]
        return [sys.executable, "-m", "vitrellis", "train", *words]

    def validation(self, out: Path) -> float:
        """The best accuracy on the validation images."""
        rows = RunDirectory(out).read_metrics()
        return max(row.val_top1 for row in rows if row.val_top1 is not None)

    def answers(self, out: Path) -> tuple[Sequence[str], Sequence[str]]:
        """The classes of the test images, and the answers of the run's best model."""
        words = [str(out), str(self.images / "test"), "--json", "-q"]
        printed = subprocess.run(
            [sys.executable, "-m", "vitrellis", "predict", *words],
            check=True, capture_output=True, text=True, env=one_thread(),
        ).stdout  # fmt: skip
        rows = json.loads(printed)
        return (
            [Path(row["file"]).parent.name for row in rows],
            [row["predictions"][0]["class"] for row in rows],
        )


@dataclass(frozen=True)
class Timm:
    """A model of timm, trained by its train.py.

    Attributes:
        model: Its name.
        pixels: The side of its images.
        arguments: Further arguments of train.py.
        checkout: A checkout of the repository.
        images: The folder of the splits.
    """

    model: str
    pixels: int
    arguments: tuple[str, ...]
    checkout: Path
    images: Path

    @property
    def name(self) -> str:
        """The tool, the model and the side of its images in pixels."""
        return f"timm {self.model}, {self.pixels} px"

    @property
    def _classes(self) -> list[str]:
        return sorted(path.name for path in (self.images / "train").iterdir())

    @property
    def _of_model(self) -> list[str]:
        """The words on the model; one with position embeddings has to be told its pixels."""
        words = ["--model", self.model, "--num-classes", str(len(self._classes))]
        words += ["--img-size", str(self.pixels)]
        if self.model.startswith("vit_"):
            words += ["--model-kwargs", f"img_size={self.pixels}"]
        return words

    def command(self, out: Path, epochs: int) -> list[str]:
        """The command that trains, and writes into the folder `out`."""
        words = [str(self.images), "--train-split", "train", "--val-split", "val"]
        words += [*self._of_model, "--epochs", str(epochs), *self.arguments]
        words += ["--output", str(out.parent), "--experiment", out.name]
        return [sys.executable, str(self.checkout / "train.py"), *words]

    def validation(self, out: Path) -> float:
        """The best accuracy on the validation images."""
        with (out / "summary.csv").open() as file:
            return max(float(row["eval_top1"] or 0) for row in csv.DictReader(file)) / 100

    def answers(self, out: Path) -> tuple[Sequence[str], Sequence[str]]:
        """The classes of the test images, and the answers of timm's inference.py."""
        words = [str(self.images), "--split", "test", *self._of_model, "--device", "cpu"]
        words += ["--crop-pct", "1.0", "--checkpoint", str(out / "model_best.pth.tar"), "-j", "1"]
        words += ["--topk", "1", "--include-index", "--fullname", "--no-console-results"]
        words += ["--results-dir", str(out), "--results-file", "answers", "--results-format", "csv"]
        subprocess.run(
            [sys.executable, str(self.checkout / "inference.py"), *words],
            check=True,
            env=one_thread(),
        )
        with (out / "answers.csv").open() as file:
            rows = list(csv.DictReader(file))
        classes = self._classes
        return (
            [Path(row["filename"]).parent.name for row in rows],
            [classes[int(row["index"])] for row in rows],
        )


@dataclass(frozen=True)
class Ultralytics:
    """A classifier of Ultralytics.

    Attributes:
        model: The name of its model, without weights.
        pixels: The side of its images.
        python: The Python of an environment with Ultralytics.
        images: The folder of the splits.
    """

    model: str
    pixels: int
    python: Path
    images: Path

    @property
    def name(self) -> str:
        """The tool, the model and the side of its images in pixels."""
        return f"ultralytics {self.model}, {self.pixels} px"

    def command(self, out: Path, epochs: int) -> list[str]:
        """The command that trains, and writes into the folder `out`."""
        words = ["classify", "train", f"model={self.model}.yaml", f"data={self.images}"]
        words += [f"imgsz={self.pixels}", f"epochs={epochs}", *_ULTRALYTICS]
        words += [f"project={out.parent}", f"name={out.name}"]
        return [str(self.python), "-c", "import ultralytics.cfg as c; c.entrypoint()", *words]

    def validation(self, out: Path) -> float:
        """The best accuracy on the validation images."""
        with (out / "results.csv").open() as file:
            return max(float(row["metrics/accuracy_top1"]) for row in csv.DictReader(file))

    def answers(self, out: Path) -> tuple[Sequence[str], Sequence[str]]:
        """The classes of the test images, and the answers of the best model."""
        words = [str(out), str(self.images / "test"), str(self.pixels)]
        printed = subprocess.run(
            [str(self.python), "-c", _ANSWERS_OF_ULTRALYTICS, *words],
            check=True, capture_output=True, text=True, env=one_thread(),
        ).stdout  # fmt: skip
        truth, answers = json.loads(printed.splitlines()[-1])
        return truth, answers


_ANSWERS_OF_ULTRALYTICS = """
import json, pathlib, sys
from ultralytics import YOLO
model = YOLO(f"{sys.argv[1]}/weights/best.pt")
files = sorted(map(str, pathlib.Path(sys.argv[2]).glob("*/*")))
answers = []
for file in files:
    (answer,) = model.predict(file, imgsz=int(sys.argv[3]), device="cpu", verbose=False)
    answers.append(answer.names[answer.probs.top1])
print(json.dumps([[pathlib.Path(file).parent.name for file in files], answers]))
"""


def one_thread() -> dict[str, str]:
    """The environment, with one thread for each process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
