r"""Is `photos` a good recipe? Trains what others offer for as many seconds on the same images.

The others are timm's train.py and Ultralytics' classifier, both from scratch. They are not
installed with this project: name a checkout of github.com/huggingface/pytorch-image-models, and the
Python of an environment with `ultralytics`.

    python -m tools.photos_beside_others sign-digits --images images --runs runs \
        --timm pytorch-image-models --ultralytics .venv-ultralytics/bin/python

Every tool gets copies of the same files of each split, in folders of classes (Ultralytics writes
damaged files anew), and one thread. What
counts is processor time, which other work on the machine changes least: `photos` (its teacher
included) sets it, and the others get the number of epochs that fits, from the difference between a
run of three epochs and one of one. Each takes its best epoch on the validation images, and then
answers for the test images once. A tool that is in `docs/results/photos-beside-others.json` is not
trained again. `photos-alone`, which is `photos` without its teacher, gets as many seconds, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tools.classifiers import CNN, SETS, VIT, Own, Timm, Tool, Ultralytics, one_thread
from tools.results_tables import RESULTS
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.recipe import load_recipe
from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.atomic import write_json
from vitrellis.runs.directory import RunDirectory

FILE = RESULTS / "photos-beside-others.json"


@dataclass(frozen=True)
class Outcome:
    """What a tool reached on a set.

    Attributes:
        images: The name of the set.
        name: The tool and its model.
        epochs: The epochs of training.
        seconds: Their processor time, in seconds.
        top1: Accuracy on the test images.
        balanced_accuracy: The mean over the classes of the accuracy on their test images.
        validation: Accuracy on the validation images, at the best epoch.
        command: The command that trained.
        hardware: The machine.
    """

    images: str
    name: str
    epochs: int
    seconds: float
    top1: float
    balanced_accuracy: float
    validation: float
    command: str
    hardware: str


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS, help="the images")
    parser.add_argument("--images", type=Path, default=Path("images"), help="folder of all sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/beside"), help="for the runs")
    parser.add_argument("--timm", type=Path, required=True, help="a checkout with train.py")
    parser.add_argument("--ultralytics", type=Path, required=True, help="Python with ultralytics")
    parser.add_argument("--only", nargs="*", help="some of the others, by words of their names")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # as every run has
    root = (options.images / options.set).resolve()
    work = options.runs.resolve() / options.set
    images = laid_out(options.set, root, work / "splits")
    study = Study(options.set, work, {root: options.set, options.timm.resolve(): "timm"})
    study.photos(root, images)
    for tool in others(options.timm.resolve(), options.ultralytics.absolute(), images):
        if options.only is None or any(word in tool.name for word in options.only):
            study.for_as_many_seconds(tool)
    study.for_as_many_seconds(Own("photos-alone", options.set, root, images))
    return 0


def others(checkout: Path, python: Path, images: Path) -> Iterator[Tool]:
    """The models of other tools."""
    yield Timm("resnet18", 64, CNN, checkout, images)
    yield Timm("resnet18", 128, CNN, checkout, images)
    yield Timm("vit_tiny_patch16_224", 128, VIT, checkout, images)
    yield Ultralytics("yolo11n-cls", 64, python, images)
    yield Ultralytics("yolo11n-cls", 128, python, images)


@dataclass(frozen=True)
class Study:
    """The outcomes for a set of images.

    Attributes:
        set: Its name.
        work: The folder of the runs.
        names: Names for folders of this machine, for the commands that are kept.
    """

    set: str
    work: Path
    names: Mapping[Path, str]

    def kept(self) -> dict[str, Outcome]:
        """The outcomes so far, by the names of the tools."""
        rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
        return {row["name"]: Outcome(**row) for row in rows if row["images"] == self.set}

    def photos(self, root: Path, images: Path) -> None:
        """Trains `photos` and its teacher; both are outcomes."""
        if "photos" in self.kept():
            return
        own, out = Own("photos", self.set, root, images), self._folder("photos")
        self._keep(own, out, epochs=None, seconds=self._train(own.command(out), out))
        (teacher,) = (out.parent / "teachers").iterdir()
        self._keep(
            Own("photos-teacher", self.set, root, images), teacher, epochs=None, seconds=None
        )

    def for_as_many_seconds(self, tool: Tool) -> None:
        """Trains a tool's model for as long as `photos` and its teacher took together."""
        kept = self.kept()
        if tool.name in kept:
            return
        out = self._folder(tool.name)
        one, three = (self._train(tool.command(out, epochs), out) for epochs in (1, 3))
        each = (three - one) / 2
        epochs = max(1, round((kept["photos"].seconds - (one - each)) / each))
        seconds = self._train(tool.command(out, epochs), out)
        self._keep(tool, out, epochs=epochs, seconds=seconds)

    def _folder(self, name: str) -> Path:
        return self.work / name.replace(" ", "-").replace(",", "")

    def _train(self, command: Sequence[str], out: Path) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return timed(command, self.work)

    def _keep(self, tool: Tool, out: Path, *, epochs: int | None, seconds: float | None) -> None:
        truth, answers = map(np.array, tool.answers(out))
        right = truth == answers
        outcome = Outcome(
            self.set,
            tool.name,
            RunDirectory(out).read_results().epochs if epochs is None else epochs,
            round(RunDirectory(out).read_results().seconds if seconds is None else seconds),
            float(right.mean()),
            float(np.mean([right[truth == label].mean() for label in np.unique(truth)])),
            tool.validation(out),
            self._shown(tool, out, epochs),
            describe_hardware(),
        )
        rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
        rows.append(asdict(outcome))
        rows.sort(key=lambda row: list(SETS).index(row["images"]))
        write_json(FILE, {"command": "python -m tools.photos_beside_others SET ...", "rows": rows})
        Console().print(f"{self.set}: {tool.name}: {100 * outcome.top1:.1f} %")

    def _shown(self, tool: Tool, out: Path, epochs: int | None) -> str:
        """The command, without the folders of this machine."""
        if epochs is None:
            assert isinstance(tool, Own)  # the others have no epochs of their own
            words = tool.command(out)
        else:
            words = tool.command(out, epochs)
        text = shlex.join(["python", *words[1:]])
        for folder, name in {**self.names, self.work: "runs"}.items():
            text = text.replace(str(folder), name)
        return text


def laid_out(name: str, root: Path, folder: Path) -> Path:
    """Copies of the images of each split, in folders of classes, as other tools read them."""
    if folder.exists():
        shutil.rmtree(folder)
    source = build_source(load_recipe("photos", [f"data.root={root}", *SETS[name]]))
    for split, part in source.splits.items():
        for index, label in enumerate(part.labels.tolist()):
            image = Path(part.images.name(index))
            target = folder / split / source.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target / f"{index:05}{image.suffix}")
    return folder


def timed(command: Sequence[str], cwd: Path) -> float:
    """Runs a command; returns its processor time, that of its children included.

    Raises:
        SystemExit: If it fails.
    """
    before = os.times()
    finished = subprocess.run(command, cwd=cwd, env=one_thread(), check=False)
    after = os.times()
    if finished.returncode:
        sys.exit(f"error: exit code {finished.returncode} of {' '.join(command)}")
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
