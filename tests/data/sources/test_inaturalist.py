"""iNaturalist from a replica with five species, in the original's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "name", "supercategory")
SPECIES = [
    "Animalia Chordata Aves Passeriformes Muscicapidae Oenanthe O.isabellina Aves",
    "Plantae Tracheophyta Magnoliopsida Apiales Apiaceae Oenanthe O.crocata Plantae",
    "Animalia Chordata Aves Passeriformes Muscicapidae Saxicola S.rubetra Aves",
    "Animalia Chordata Aves Passeriformes Corvidae Corvus C.corax Aves",
    "Plantae Tracheophyta Magnoliopsida Apiales Apiaceae Apium A.graveolens Plantae",
]
ORDER = [4, 1, 0, 3, 2, 2]
"""Species of the training images; DeiT would number them as they come."""


def categories() -> list[dict[str, Any]]:
    taxonomy = (zip(RANKS, line.split(), strict=True) for line in SPECIES)
    return [{"id": number} | dict(ranks) for number, ranks in enumerate(taxonomy)]


def write_split(root: Path, name: str, species: list[int]) -> dict[str, Any]:
    images, annotations = [], []
    for number, category in enumerate(species, start=100):
        folder = SPECIES[category].split()[-1]
        path = f"train_val{name[-4:]}/{folder}/{category}/{name}{number}.jpg"
        write_image(root / path, 10 * category + 50)
        images.append({"id": number, "file_name": path, "width": 8, "height": 8})
        annotations.append({"id": number, "image_id": number, "category_id": category})
    secret = [
        {"id": k, "name": str(k), "supercategory": s.split()[-1]} for k, s in enumerate(SPECIES)
    ]
    content = {"images": images, "annotations": annotations[::-1], "categories": secret}
    (root / f"{name}.json").write_text(json.dumps(content))
    return content


def write(root: Path, year: int = 2018) -> Path:
    write_split(root, f"train{year}", ORDER)
    write_split(root, f"val{year}", [0, 1, 2, 3, 4])
    (root / "categories.json").write_text(json.dumps(categories()[::-1]))
    return root


def test_species_have_the_numbers_of_their_categories(tmp_path: Path) -> None:
    source = load_source("inaturalist", write(tmp_path))
    names = ("O.isabellina", "O.crocata", "S.rubetra", "C.corax", "A.graveolens")
    assert source.class_names == names
    assert source.train.labels.tolist() == ORDER
    assert shades(source.train) == [10 * k + 50 for k in ORDER]
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("level", "names", "labels"),
    [
        ("kingdom", ["Animalia", "Plantae"], [1, 1, 0, 0, 0, 0]),
        ("supercategory", ["Aves", "Plantae"], [1, 1, 0, 0, 0, 0]),
        ("order", ["Passeriformes", "Apiales"], [1, 1, 0, 0, 0, 0]),
        ("family", ["Muscicapidae", "Apiaceae", "Corvidae"], [1, 1, 0, 2, 0, 0]),
    ],
)
def test_higher_levels(tmp_path: Path, level: str, names: list[str], labels: list[int]) -> None:
    source = load_source("inaturalist", write(tmp_path), args={"level": level})
    assert list(source.class_names) == names
    assert source.train.labels.tolist() == labels


def test_two_genera_of_the_same_name_are_two(tmp_path: Path) -> None:
    source = load_source("inaturalist", write(tmp_path), args={"level": "genus"})
    first, second, *others = source.class_names
    assert first.startswith("Oenanthe (Animalia, ")
    assert second.startswith("Oenanthe (Plantae, ")
    assert others == ["Saxicola", "Corvus", "Apium"]
    assert source.train.labels.tolist() == [4, 1, 0, 3, 2, 2]


def test_a_file_without_taxonomy_has_species_and_supercategories(tmp_path: Path) -> None:
    (write(tmp_path) / "categories.json").unlink()
    assert load_source("inaturalist", tmp_path).class_names == ("0", "1", "2", "3", "4")
    source = load_source("inaturalist", tmp_path, args={"level": "supercategory"})
    assert source.class_names == ("Aves", "Plantae")
    with pytest.raises(VitrellisError, match=r"train2018\.json: category 0 has no 'kingdom'"):
        load_source("inaturalist", tmp_path, args={"level": "genus"})


def test_the_year_must_be_clear(tmp_path: Path) -> None:
    write(tmp_path, 2018)
    with pytest.raises(UsageError, match=r"data\.args\.year: 2019; .* has 2018"):
        load_source("inaturalist", tmp_path, args={"year": 2019})
    write(tmp_path, 2019)
    with pytest.raises(UsageError, match=r"data\.args\.year: not given; .* has 2018, 2019"):
        load_source("inaturalist", tmp_path)
    source = load_source("inaturalist", tmp_path, args={"year": 2019})
    assert "train_val2019" in source.train.images.name(0)


def test_unknown_levels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown level .*'famly'\. Did you mean 'family'"):
        load_source("inaturalist", tmp_path, args={"level": "famly"})
    with pytest.raises(VitrellisError, match=r"has no train2018\.json\. It should hold"):
        load_source("inaturalist", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "'images' should be a list"),
        ({"annotations": []}, r"image 100 .* has no annotation"),
        (
            {"annotations": [{"image_id": 100, "category_id": 9}]},
            "has category 9, which is unknown",
        ),
        ({"images": [{"id": "a"}]}, "item 0 of 'images' should have 'id' of type int"),
    ],
)
def test_wrong_contents(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path)
    content = json.loads((tmp_path / "val2018.json").read_text())
    (tmp_path / "val2018.json").write_text(json.dumps(content | change))
    with pytest.raises(VitrellisError, match=rf"val2018\.json: .*{message}"):
        load_source("inaturalist", tmp_path)
    (tmp_path / "val2018.json").write_text("[]")
    with pytest.raises(VitrellisError, match=r"val2018\.json: should be an object"):
        load_source("inaturalist", tmp_path)
