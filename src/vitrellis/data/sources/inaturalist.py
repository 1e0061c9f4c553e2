"""iNaturalist from its JSON files, by species or by a higher level of taxonomy.

Van Horn et al., CVPR 2018, https://arxiv.org/abs/1707.06642; the competitions of 2018 and 2019. The
labels of the test images were never published, so the validation images are the test split, as in
papers; a validation split is cut from the training images (`data.val_fraction`).

How we differ from DeiT's loader, which numbers classes in the order in which annotations happen to
mention them: species have the numbers of `categories.json`, and classes of a higher level the order
of their first species there. A genus of plants and a genus of animals of the same name are two.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from vitrellis.data.formats.json_files import read_json, records
from vitrellis.data.source import Source, Split, root_folder
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import UsageError, VitrellisError, unknown_name

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "name", "supercategory")
"""The levels of taxonomy; `name` is the species. The first seven go from coarse to fine."""

_CONTENTS = "train2018.json, val2018.json (or 2019), categories.json and train_val2018/"


def load_inaturalist(
    root: Path | None,
    channels: int | None = None,
    *,
    level: str = "name",
    year: int | None = None,
) -> Source:
    """iNaturalist, tested on its validation images.

    Args:
        root: The folder of the JSON files and of `train_val2018/`.
        channels: 1 to make the images grey; None or 3 for colour.
        level: One of `LEVELS`.
        year: The competition's year; not needed if there are files of one year only.

    Raises:
        UsageError: If the level is not known, or the year is not clear.
        VitrellisError: If a file is missing or damaged.
    """
    if level not in LEVELS:
        raise unknown_name("level (data.args.level)", str(level), LEVELS)
    folder = root_folder(root, "inaturalist", _CONTENTS)
    number = _year(folder, year)
    train_file, test_file = (folder / f"{split}{number}.json" for split in ("train", "val"))
    content = _object(train_file)
    file, categories = _categories(folder, content, train_file)
    class_names, class_of = _classes(categories, level, file)
    train = _split(folder, content, train_file, class_of, channels)
    test = _split(folder, _object(test_file), test_file, class_of, channels)
    return Source("inaturalist", class_names, train, None, test).checked()


def _year(folder: Path, year: int | None) -> int:
    years = sorted(int(file.stem[5:]) for file in folder.glob("train[0-9][0-9][0-9][0-9].json"))
    if not years:
        raise VitrellisError(
            f"data.root: {folder} has no train2018.json. It should hold {_CONTENTS}"
        )
    if year is None and len(years) == 1:
        return years[0]
    if year not in years:
        value = "not given" if year is None else repr(year)
        raise UsageError(f"data.args.year: {value}; {folder} has {', '.join(map(str, years))}")
    return year


def _object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise VitrellisError(f"{file}: should be an object with 'images' and 'annotations'")
    return content


def _categories(
    folder: Path, content: dict[str, Any], train_file: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """The file with the taxonomy, and its categories in the order of their numbers.

    `train2018.json` hides the names; `categories.json` has them.
    """
    file = folder / "categories.json"
    values = content.get("categories")
    if file.is_file():
        values = read_json(file)
    else:
        file = train_file
    categories = records(values, {"id": int}, file, "its categories")
    return file, sorted(categories, key=lambda category: category["id"])


def _classes(
    categories: list[dict[str, Any]], level: str, file: Path
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the classes of a level, and the class of each category number."""
    ranks = (
        LEVELS[: LEVELS.index(level) + 1] if level not in ("name", "supercategory") else (level,)
    )
    index: dict[tuple[Any, ...], int] = {}
    class_of: dict[int, int] = {}
    for category in categories:
        for rank in ranks:
            if not isinstance(category.get(rank), str):
                raise VitrellisError(
                    f"{file}: category {category['id']} has no {rank!r}, which data.args.level="
                    f"{level} needs"
                )
        # two species are two classes, even if they have the same name
        key = (category["id"],) if level == "name" else tuple(category[rank] for rank in ranks)
        class_of[category["id"]] = index.setdefault(key, len(index))
    if level == "name":
        lineages = [(str(category["id"]), category["name"]) for category in categories]
    else:
        lineages = list(index)
    return _distinct(lineages), class_of


def _distinct(lineages: list[tuple[Any, ...]]) -> tuple[str, ...]:
    """The last name of each lineage, followed by the others where two lineages share it."""
    count = Counter(lineage[-1] for lineage in lineages)
    return tuple(
        lineage[-1] if count[lineage[-1]] == 1 else f"{lineage[-1]} ({', '.join(lineage[:-1])})"
        for lineage in lineages
    )


def _split(
    folder: Path,
    content: dict[str, Any],
    file: Path,
    class_of: dict[int, int],
    channels: int | None,
) -> Split:
    images = records(content.get("images"), {"id": int, "file_name": str}, file, "'images'")
    keys = {"image_id": int, "category_id": int}
    annotations = records(content.get("annotations"), keys, file, "'annotations'")
    category_of = {entry["image_id"]: entry["category_id"] for entry in annotations}
    labels = []
    for image in images:
        category = category_of.get(image["id"])
        if category not in class_of:
            problem = (
                "no annotation" if category is None else f"category {category}, which is unknown"
            )
            raise VitrellisError(
                f"{file}: image {image['id']} ({image['file_name']}) has {problem}"
            )
        labels.append(class_of[category])
    paths = [image["file_name"] for image in images]
    return Split(
        ImageFiles.unopened(folder, paths, channels or 3, named_in=file),
        torch.tensor(labels, dtype=torch.int64),
    )


LAYOUTS = {"inaturalist": load_inaturalist}
RECOGNIZED_BY = {"inaturalist": lambda root: any(root.glob("train[0-9][0-9][0-9][0-9].json"))}
