"""Images per second of our training loop, and of a plain PyTorch loop around the same model.

Both take the same batches from the same loader, train the same model with the same optimizer and
loss, and clip; they take turns, an epoch each, so that whatever else the machine does meets both.

    python benchmarks/training_step.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from vitrellis.assembly import build, optimization
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.assembly.terms import build_objective
from vitrellis.data.loader import TrainLoader
from vitrellis.data.sources import Source
from vitrellis.recipe import Recipe, load_recipe
from vitrellis.report.hardware import describe_hardware
from vitrellis.runs.checkpoints import RunWriter
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.display import Display
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.trainer import Trainer

ROWS = {
    "DHVT micro, 28 px, batch 32": ["model.name=dhvt_micro_patch4"],
    "plain ViT, 49 tokens, batch 32": ["model.name=vit_micro_patch4_28"],
    "plain ViT, 16 tokens, batch 32": ["model.name=vit_micro_patch7_28"],
    "DeiT-Ti's shape, 49 tokens, batch 64": [
        "model.name=vit_tiny_patch4_32",
        "training.batch_size=64",
    ],
}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loop")
    rounds = parser.parse_args().rounds
    torch.set_flush_denormal(True)
    print(f"{describe_hardware()}; 1,000 images an epoch, median of {rounds} rounds\n")
    print("| model | ours, img/s | plain loop, img/s | ours / plain |")
    print("|---|---|---|---|")
    for name, changes in ROWS.items():
        ours, plain = measure(changes, rounds)
        ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
        print(
            f"| {name} | {statistics.median(ours):,.0f} | {statistics.median(plain):,.0f} "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
        )


def measure(changes: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Images per second of each round, ours and the plain loop's."""
    recipe = load_recipe("demo-alone", [*changes, "objective.cross_entropy.label_smoothing=0"])
    source = build_source(recipe)
    preprocessing = build.build_preprocessing(recipe, source)
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(recipe, source, preprocessing, Path(folder))
        model, optimizer, loader = plain_parts(recipe, source, preprocessing)
        for number in range(rounds + 1):
            before = trainer.progress.seconds
            trainer.epochs = number + 1
            trainer.fit()
            seconds = trainer.progress.seconds - before
            started = time.perf_counter()
            plain_epoch(model, optimizer, loader, number)
            plain_seconds = time.perf_counter() - started
            if number:  # the first round is warm-up
                ours.append(loader.images_per_epoch / seconds)
                plain.append(loader.images_per_epoch / plain_seconds)
    return ours, plain


def plain_parts(
    recipe: Recipe, source: Source, preprocessing: Preprocessing
) -> tuple[nn.Module, torch.optim.Optimizer, TrainLoader]:
    """Model, optimizer and batches of the plain loop."""
    torch.manual_seed(0)
    place = build.Place(torch.device("cpu"))
    model = build.build_student(recipe, source)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    return model, optimizer, build.build_train_loader(recipe, source, preprocessing, place)


def plain_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: TrainLoader, epoch: int
) -> None:
    """What anybody would write."""
    model.train()
    for batch in loader.epoch(epoch):
        loss = F.cross_entropy(model(batch.images), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def our_trainer(
    recipe: Recipe, source: Source, preprocessing: Preprocessing, folder: Path
) -> Trainer:
    """Our loop, with all that it writes, but without validation."""
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu")
    fabric.launch()
    student = build.build_student(recipe, source)
    objective = build_objective(
        recipe, student, preprocessing, Teachers({}), class_counts=source.class_counts
    )
    guided = GuidedStudent(student, objective)
    loader = build.build_train_loader(
        recipe, source, preprocessing, build.Place(torch.device("cpu"))
    )
    run = RunDirectory(folder)
    return Trainer(
        fabric=fabric,
        guided=fabric.setup_module(guided),
        optimizer=optimization.build_optimizer(recipe, guided),
        gradient=optimization.build_gradient(recipe, guided, Teachers({})),
        keep_rate=None,
        learning_rate=optimization.build_learning_rate(recipe, loader),
        loader=loader,
        validation=None,
        teachers=Teachers({}),
        ema=None,
        whole=None,
        writer=RunWriter(fabric, run, lambda model, path: None),
        display=Display(Console(quiet=True), "benchmark", 1, loader.steps_per_epoch),
        seed=0,
        epochs=1,
        accumulate=1,
        clip_grad=1.0,
        select_by="val_top1",
        eval_every=1,
        checkpoint_minutes=1e9,
    )


if __name__ == "__main__":
    main()
