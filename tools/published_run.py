"""Runs the published code of locality guidance (github.com/lkhl/tiny-transformers) on a processor.

    python tools/published_run.py CHECKOUT ROWS SIZE SEED CONFIG [KEY VALUE ...]

The code is imported from a checkout and not changed. What it needs from machines and versions of
2021 is replaced before: the GPU by the processor, and what timm and Pillow have changed since. It
reads `data/cifar-100-python` in the present folder, and trains on SIZE images of it, which are
those of `data.train_size=SIZE` here (0 for all). The losses of each epoch, and the accuracy after
the last one, go to ROWS, as lines of JSON. It needs yacs, iopath, fvcore, simplejson, submitit and
einops.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps
from torch.utils.data import Subset
from torchvision.datasets import CIFAR100

from vitrellis.data.splits import balanced_subset


def main(checkout: str, rows: str, size: int, seed: int, config: str, changes: list[str]) -> None:
    """Trains as the published command does."""
    _on_the_processor()
    sys.path.insert(0, checkout)
    from pycls.core import config as published  # type: ignore[import-not-found]
    from pycls.core import meters, trainer
    from pycls.datasets import cifar100  # type: ignore[import-not-found]

    cifar100.CIFAR100 = lambda root, train, download: _images(root, train, size)
    with Path(rows).open("w", encoding="utf-8") as file:
        weight = published.cfg.DISTILLATION  # its weight is known when the settings are read
        meters.TrainMeter, last = _recording(meters.TrainMeter, weight, file), trainer.test_epoch

        def test_epoch(loader: Any, model: Any, meter: Any, epoch: int) -> None:
            if epoch + 1 == published.cfg.OPTIM.MAX_EPOCH:
                vars(meter).pop("get_epoch_stats", None)
                last(loader, model, meter, epoch)
                error = meter.get_epoch_stats(epoch)["top1_err"]
                file.write(json.dumps({"top1": 1 - error / 100}) + "\n")
            else:  # nothing is chosen by it
                meter.get_epoch_stats = lambda epoch: {"top1_err": 100.0}

        trainer.test_epoch = test_epoch
        published.load_cfg(str(Path(checkout) / "configs" / config))
        published.cfg.merge_from_list(
            ["RNG_SEED", seed, "DATA_LOADER.NUM_WORKERS", 0, "PREC_TIME.NUM_ITER", 0, *changes]
        )
        published.cfg.freeze()
        trainer.train_model()


class _Cifar100(CIFAR100):  # type: ignore[misc]
    """Without the checksums: other copies hold the same images in other files."""

    train_list = (("train", None),)
    test_list = (("test", None),)
    meta = {**CIFAR100.meta, "md5": None}  # noqa: RUF012  (as in torchvision)


def _images(root: str, train: bool, size: int) -> Any:
    images = _Cifar100(root, train=train)
    if not train or not size:
        return images
    labels = torch.tensor(images.targets)
    return Subset(images, balanced_subset(labels, size, seed=1, num_classes=100).tolist())


def _recording(meter: Any, distillation: Any, file: Any) -> Any:
    """A meter that also writes the mean losses of each epoch, without their weights."""

    class Recording(meter):  # type: ignore[misc]
        def reset(self, timer: bool = False) -> None:
            super().reset(timer)
            self.losses: list[tuple[float, float]] = []

        def update_stats(self, *values: Any) -> None:
            super().update_stats(*values)
            _, _, cross_entropy, locality, *_ = values
            self.losses.append((cross_entropy, locality / distillation.INTER_WEIGHT))

        def log_epoch_stats(self, cur_epoch: int) -> None:
            super().log_epoch_stats(cur_epoch)
            means = [statistics.fmean(each) for each in zip(*self.losses, strict=True)]
            row = {"epoch": cur_epoch, "cross_entropy": means[0], "locality": means[1]}
            file.write(json.dumps(row) + "\n")
            file.flush()

    return Recording


def _on_the_processor() -> None:
    """Replaces what is not there: GPUs, timm's former names, and what Pillow did."""
    import timm.layers

    sys.modules["timm.models.layers"] = timm.layers
    kept = ImageOps.posterize  # Pillow has refused to keep no bits since; it made images black
    ImageOps.posterize = lambda image, bits: kept(image, bits) if bits else image.point(lambda _: 0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.nn.Module.cuda = lambda self, device=None: self  # type: ignore[method-assign]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.cuda.current_device = lambda: 0
    torch.cuda.max_memory_allocated = lambda *_: 0


if __name__ == "__main__":
    checkout, rows, size, seed, config, *changes = sys.argv[1:]
    main(checkout, rows, int(size), int(seed), config, changes)
