"""MedMNIST: small medical images in one archive for each set, with three official splits.

Yang et al., "MedMNIST v2", Scientific Data 2023 (https://arxiv.org/abs/2110.14795). The archives
are called `pathmnist.npz` (28 pixels), `pathmnist_64.npz`, `_128` and `_224`. Numbers of images and
names of classes are those of the package `medmnist` 3.0.2. `chestmnist`, in which an image has
several labels, and the sets of volumes cannot be learned here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vitrellis.data.source import Source
from vitrellis.data.sources.arrays import array_splits, open_npz
from vitrellis.data.sources.published_counts import differing_counts
from vitrellis.errors import UsageError, VitrellisError, unknown_name


class _Facts(NamedTuple):
    """The numbers of images of the three splits, and the names of the classes."""

    images: tuple[int, int, int]
    class_names: tuple[str, ...]


_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
_SETS = {
    "pathmnist": _Facts(
        (89996, 10004, 7180),
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "dermamnist": _Facts(
        (7007, 1003, 2005),
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    "octmnist": _Facts(
        (97477, 10832, 1000),
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": _Facts((4708, 524, 624), ("normal", "pneumonia")),
    "retinamnist": _Facts((1080, 120, 400), ("0", "1", "2", "3", "4")),
    "breastmnist": _Facts((546, 78, 156), ("malignant", "normal, benign")),
    "bloodmnist": _Facts(
        (11959, 1712, 3421),
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "tissuemnist": _Facts(
        (165466, 23640, 47280),
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
    ),
    "organamnist": _Facts((34561, 6491, 17778), _ORGANS),
    "organcmnist": _Facts((12975, 2392, 8216), _ORGANS),
    "organsmnist": _Facts((13932, 2452, 8827), _ORGANS),
}
_FILE = re.compile(r"([a-z]+mnist)(?:_(64|128|224))?\.npz")
_CONTENTS = "an archive of MedMNIST, such as pathmnist.npz or pathmnist_64.npz"


def load_medmnist(
    root: Path | None,
    channels: int | None = None,
    *,
    name: str | None = None,
    size: int | None = None,
) -> Source:
    """One set of MedMNIST with its official splits.

    Args:
        root: The archive, or the folder that holds it.
        channels: 1 or 3 to make all images grey or colour; None to leave them as they are.
        name: The set, such as `pathmnist`, if the folder holds several.
        size: The size of its images in pixels, if the folder holds several: 28, 64, 128 or 224.

    Raises:
        UsageError: If there is no such set, or which one is meant is not clear.
        VitrellisError: If the archive is missing or damaged.
    """
    if name is not None and name not in _SETS:
        raise unknown_name("set of MedMNIST (data.args.name)", str(name), _SETS)
    file, name = _find(root, name, size)
    read, keys = open_npz(file)
    splits = array_splits(read, keys, file, channels=channels)
    facts = _SETS[name]
    counts = dict(zip(("train", "val", "test"), facts.images, strict=True))
    return Source(
        "medmnist",
        facts.class_names,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        notes=differing_counts(name, splits, counts),
    ).checked()


def _find(root: Path | None, name: str | None, size: int | None) -> tuple[Path, str]:
    """The archive, and the set that it holds."""
    if root is None:
        raise VitrellisError(f"source 'medmnist' needs data.root: {_CONTENTS}, or its folder")
    place = root.expanduser()
    if not place.exists():
        raise VitrellisError(
            f"data.root: no such folder or file: {place}. It should be {_CONTENTS}"
        )
    files = [place] if place.is_file() else sorted(place.glob("*.npz"))
    found: dict[Path, str] = {}
    for file in files:
        match = _FILE.fullmatch(file.name)
        if match and name in (None, match[1]) and size in (None, int(match[2] or 28)):
            if match[1] not in _SETS:
                raise unknown_name(f"{file}: set of MedMNIST", match[1], _SETS)
            found[file] = match[1]
    if not found:
        raise VitrellisError(f"data.root: {place} does not hold {_CONTENTS}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UsageError(
            f"data.args: {place} holds {names}; say which by data.args.name and data.args.size"
        )
    return next(iter(found.items()))


LAYOUTS = {"medmnist": load_medmnist}
RECOGNIZED_BY = {
    "medmnist": lambda root: any(
        _FILE.fullmatch(file.name) for file in ([root] if root.is_file() else root.glob("*.npz"))
    )
}
