"""ELPV: electroluminescence images of solar cells, functional and defective.

Buerhop-Lutz et al., "A benchmark for visual identification of defective solar cells in
electroluminescence imagery", EU PVSEC 2018; github.com/zae-bayern/elpv-dataset. 2,624 grey images
of 300 pixels from 44 modules, under CC BY-NC-SA 4.0. They lie in the package `elpv-dataset`
(`pip install 'vitrellis[solar]'`), of which no code is run.

The dataset has no splits. A fixed quarter of the images is the test split here, the same share of
each defect probability and kind of cell. Which cells come from the same module is not published, so
a module may have cells on both sides.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles, channels_of, inspect_files, path_below
from vitrellis.data.splits import stratified_split
from vitrellis.errors import UsageError, VitrellisError

TEST_FRACTION = 0.25
"""Share of the images in the test split."""
TEST_SEED = 0
"""Decides which images these are; the same in every run."""

_PROBABILITIES = ("functional", "possibly defective", "likely defective", "defective")
_KINDS = ("mono", "poly")
_CLASSES = {4: _PROBABILITIES, 2: ("functional", "defective")}
_CONTENTS = "labels.csv and images/, as in the package elpv-dataset"


def load_elpv(root: Path | None, channels: int | None = None, *, classes: int = 2) -> Source:
    """Solar cells, with a test split of a quarter of the images.

    Args:
        root: A folder with `labels.csv` and `images/`; None for that of the installed package.
        channels: 3 to repeat the grey channel; None or 1 to leave it.
        classes: 4 for the defect probabilities 0, 1/3, 2/3 and 1; 2 for functional (0 and 1/3) and
            defective (2/3 and 1). The test images are the same.

    Raises:
        UsageError: If `classes` is neither 2 nor 4.
        VitrellisError: If the package is not installed, or a file is missing or damaged.
    """
    if type(classes) is not int or classes not in _CLASSES:
        raise UsageError(
            f"data.args.classes: {classes!r}; elpv has 2 classes (functional, defective) or 4 "
            "(defect probability 0, 1/3, 2/3, 1)"
        )
    folder = _packaged() if root is None else root_folder(root, "elpv", _CONTENTS)
    paths, levels, kinds = _read_labels(folder)
    facts = inspect_files(paths)
    channels = channels_of(paths, facts, channels)
    images = ImageFiles.of(folder, paths, facts, channels)
    labels = levels if classes == len(_PROBABILITIES) else levels // 2
    strata = levels * len(_KINDS) + kinds
    num_strata = len(_PROBABILITIES) * len(_KINDS)
    train, test = stratified_split(strata, TEST_FRACTION, TEST_SEED, num_strata)
    whole = Split(images, labels)
    return Source(
        "elpv",
        _CLASSES[classes],
        whole.subset(train),
        None,
        whole.subset(test),
        notes=("a fixed quarter is the test split, as the dataset has none",),
    ).checked()


def _packaged() -> Path:
    """The data folder of the installed package, which is found but not imported."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise VitrellisError(
            "source 'elpv': the package elpv-dataset, which holds the images, is not installed. "
            "Install it with: pip install 'vitrellis[solar]' (or set data.root to a folder with "
            f"{_CONTENTS})"
        )
    return Path(package.submodule_search_locations[0]) / "data"


def _read_labels(folder: Path) -> tuple[list[Path], Tensor, Tensor]:
    """Paths; defect probabilities 0, 1/3, 2/3, 1 as 0 to 3, and kinds of cells, `(N,)` int64."""
    file = folder / "labels.csv"
    if not file.is_file():
        raise VitrellisError(f"{folder}: has no labels.csv. It should hold {_CONTENTS}")
    paths, levels, kinds = [], [], []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        level = _level(words[1]) if len(words) == 3 else None
        if level is None or words[2] not in _KINDS:
            raise VitrellisError(
                f"{file}: line {number} is {line!r}; expected an image, a defect probability (0, "
                "1/3, 2/3 or 1) and mono or poly"
            )
        paths.append(folder / path_below(folder, words[0], file))
        levels.append(level)
        kinds.append(_KINDS.index(words[2]))
    return paths, torch.tensor(levels, dtype=torch.int64), torch.tensor(kinds, dtype=torch.int64)


def _level(word: str) -> int | None:
    """0 to 3 for the probabilities 0, 1/3, 2/3 and 1; None for anything else."""
    try:
        thirds = 3 * float(word)
    except ValueError:
        return None
    near = [level for level in range(len(_PROBABILITIES)) if abs(thirds - level) < 1e-3]
    return near[0] if near else None


LAYOUTS = {"elpv": load_elpv}
RECOGNIZED_BY = {
    "elpv": lambda root: (root / "labels.csv").is_file() and (root / "images").is_dir()
}
