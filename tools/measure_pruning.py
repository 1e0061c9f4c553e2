"""Accuracy and speed of pruned models on real photographs: docs/results/pruning-*.json.

Trains a small ViT and a small DHVT on 1,402 photographs at 80 pixels (100 tokens), with all tokens,
with pruning in training, and from the unpruned weights with pruning (fine-tuned); and prunes the
unpruned ones afterwards, by both methods. Runs that are complete are not trained again, so the same
command goes on where it was stopped. Accuracy is that of the test images. Speed is measured in
turns with the same model that keeps all tokens, as processor time of one thread.

    python tools/measure_pruning.py --data sign-digits --runs runs --only vit
        --out docs/results/pruning-vit.json
    python tools/measure_pruning.py --data sign-digits --runs runs --only dhvt --seeds 0
        --out docs/results/pruning-dhvt.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vitrellis.analysis.cost import count_macs
from vitrellis.analysis.inference import collect_logits
from vitrellis.analysis.metrics import accuracy
from vitrellis.analysis.pruning_gain import measure_pruning
from vitrellis.assembly import build
from vitrellis.assembly.launch import train
from vitrellis.assembly.pruned import Reduction, write_pruned
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.recipe import load_recipe
from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.atomic import write_json
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported

IMAGES = ["data.folds=5", "data.fold=0", "data.seed=0", "input.img_size=80"]
COMMON = [*IMAGES, "schedule.warmup_epochs=2", "machine.threads=1"]
VIT = ["model.name=vit_micro_patch8_64", 'model.args={"drop_path_rate":0.0}']
LAYERS = "pruning.layers=[1,2]"
TRAINED: dict[str, list[str]] = {
    "vit": [*VIT, "training.epochs=20"],
    "vit-pruned": [
        *(*VIT, "training.epochs=20", "pruning.keep_rate=0.5", LAYERS),
        *("pruning.from_epoch=4", "pruning.until_epoch=10"),
    ],
    "dhvt": ["training.epochs=12"],
    "dhvt-pruned": [
        *("training.epochs=12", "pruning.keep_rate=0.5", LAYERS),
        *("pruning.from_epoch=3", "pruning.until_epoch=6"),
    ],
}
"""The keys of each kind of run, beside those of `photos-alone`."""
TUNED = {
    "vit-tuned": ("vit", [*VIT, "training.epochs=4", "pruning.keep_rate=0.5", LAYERS]),
    "dhvt-tuned": ("dhvt", ["training.epochs=3", "pruning.keep_rate=0.5", LAYERS]),
}
"""The runs that start from the weights of another one, at a tenth of its learning rate."""
PRUNED = {
    "vit-evit": ("vit", Reduction("evit", 0.5, (1, 2))),
    "vit-tome": ("vit", Reduction("tome", 0.7, (0, 1, 2))),
    "dhvt-evit": ("dhvt", Reduction("evit", 0.5, (1, 2))),
}
"""The runs that are pruned afterwards, as `vitrellis prune` does it: from which, and how."""


def main() -> None:
    """Trains, prunes, measures, and prints a table; the figures go into a JSON file."""
    parser = argparse.ArgumentParser(description="Pruned models on real photographs.")
    parser.add_argument("--data", type=Path, required=True, help="a folder of classes")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=[], help="kinds of runs, such as vit")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [*TRAINED, *TUNED, *PRUNED]
    kinds = [kind for kind in kinds if not arguments.only or kind.split("-")[0] in arguments.only]
    figures: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        for seed in arguments.seeds:
            make(kind, seed, arguments.data, arguments.runs)
            row = {"seed": seed, **measured(arguments.runs / f"{kind}-{seed}", arguments.data)}
            figures.setdefault(kind, []).append(row)
        sys.stdout.write(summary(kind, figures[kind]) + "\n")
        sys.stdout.flush()
    words = " ".join(["python", "tools/measure_pruning.py", *sys.argv[1:]])
    write_json(
        arguments.out,
        {"command": words, "hardware": describe_hardware(), "batch_size": 32, "runs": figures},
    )


def make(kind: str, seed: int, data: Path, runs: Path) -> None:
    """Trains or prunes a run, if it is not there."""
    run = RunDirectory(runs / f"{kind}-{seed}")
    if run.results_file.exists() or run.imported_file.exists():
        return
    if kind in PRUNED:
        start, reduction = PRUNED[kind]
        write_pruned(RunDirectory(runs / f"{start}-{seed}"), run.path, reduction, {})
        return
    keys = [f"data.root={data}", *COMMON, f"seed={seed}"]
    if kind in TRAINED:
        keys += TRAINED[kind]
    else:
        start, own = TUNED[kind]
        weights = runs / f"{start}-{seed}" / "model" / "model.safetensors"
        keys += [*own, "optimizer.lr=1e-4", f"init.weights={weights}"]
    train(load_recipe("photos-alone", keys), out=run.path, console=Console(stderr=True))


def measured(folder: Path, data: Path) -> dict[str, Any]:
    """The test accuracy of a run, its multiply-adds, and its speed against all tokens."""
    run = RunDirectory(folder)
    trained = load_exported(run.best_model)
    recipe = load_recipe(run.recipe_file, [f"data.root={data}"])
    source = build_source(recipe)
    assert source.test is not None
    place = build.Place(torch.device("cpu"))
    loader = build.build_eval_loader(recipe, source.test, trained.preprocessing, place)
    logits, labels = collect_logits(trained.model, loader)
    shown = trained.preprocessing
    shape = (shown.channels, *shown.img_size)
    row: dict[str, Any] = {
        "top1": accuracy(logits.argmax(dim=1), labels),
        "macs": count_macs(trained.model, shape),
    }
    if isinstance(trained.model, TokenReduction):
        gain = measure_pruning(trained.model, shape=shape, batch_size=32, training=True)
        row |= gain.to_json()
    return row


def summary(kind: str, rows: list[dict[str, Any]]) -> str:
    """A row of a Markdown table: means over seeds, and the lowest and highest."""
    top1 = [100 * row["top1"] for row in rows]
    cells = [f"`{kind}`", f"{statistics.mean(top1):.1f} ({min(top1):.1f} to {max(top1):.1f})"]
    cells.append(f"{rows[0]['macs'] / 1e6:.0f} M")
    for part in ("forward", "step"):
        gains = [row[part] for row in rows if part in row]
        if not gains:
            cells.append("1")
            continue
        ratios = [gain["ratio"] for gain in gains]
        speed = statistics.mean(gain["after"] for gain in gains)
        cells.append(f"{statistics.mean(ratios):.2f} ({speed:.0f} images/s)")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
