"""The packaged recipes: their headers, their figures, and what they share with each other."""

from __future__ import annotations

import pytest
import torch

from vitrellis.models import create_model, num_blocks
from vitrellis.objectives import AdaptiveWeight
from vitrellis.recipe import (
    Recipe,
    header,
    load_recipe,
    packaged_recipes,
    teacher_recipe,
)

BLOCKS = {
    "cifar100-deit-ti": ("deit_tiny_patch16_224", (0, 6, 11)),
    "cifar100-pit-ti": ("pit_ti_224", (0, 6, 11)),
    "cifar100-t2t-7": ("t2t_vit_7", (0, 3, 6)),
    "cifar100-pvt-ti": ("pvt_tiny", (0, 3, 7)),
    "cifar100-pvtv2-b0": ("pvt_v2_b0", (0, 3, 7)),
    "cifar100-convit-ti": ("convit_tiny", (0, 6, 11)),
    "cifar100-cvt-13": ("cvt_13", (0, 6, 11)),
}
"""The students by the recipe without guidance, and the blocks that are guided."""

PUBLISHED_TOP1 = {
    "cifar100-resnet56": "70.43",
    "cifar100-deit-ti-alg": "82.06",
    "cifar100-deit-ti-learned": "82.42",
} | {
    f"cifar100-{student}{guidance}": top1
    for student, figures in {
        "deit-ti": ("65.08", "78.15", "78.55"),
        "t2t-7": ("69.37", "78.35", "78.43"),
        "pit-ti": ("73.58", "78.48", "78.76"),
        "pvt-ti": ("69.22", "77.07", "78.43"),
        "pvtv2-b0": ("77.44", "79.30"),
        "convit-ti": ("75.32", "78.95"),
    }.items()
    for guidance, top1 in zip(("", "-lg", "-lskd"), figures, strict=False)
}
PUBLISHED_TOP1 |= {
    "cifar100-dhvt-t": "80.93",
    "cifar100-dhvt-s": "82.91",
    "cifar100-dhvt-t-patch2": "83.54",
    "cifar100-dhvt-s-patch2": "85.68",
}


@pytest.mark.parametrize(("name", "model", "blocks"), [(n, *b) for n, b in BLOCKS.items()])
def test_plain_guidance_pairs_blocks_at_a_constant_weight(
    name: str, model: str, blocks: tuple[int, ...]
) -> None:
    recipe = load_recipe(f"{name}-lg")
    locality = recipe.objective.locality
    assert locality is not None
    assert locality.student_blocks == blocks
    assert locality.weight == 2.5
    assert recipe.objective.cross_entropy.weight == 1
    assert list(recipe.objective.guided_terms) == ["locality"]
    assert recipe.model == load_recipe(name).model
    assert recipe.model.name == model
    assert load_recipe(name).teacher is None


@pytest.mark.parametrize("name", ["cifar100-deit-ti-alg", "cifar100-deit-ti-learned"])
def test_adaptive_guidance_ends_by_the_published_rule(name: str) -> None:
    locality = load_recipe(name).objective.locality
    assert locality is not None
    assert locality.weight == AdaptiveWeight(
        value=2.5, adaptive=True, window=50, threshold=-0.02, min_epoch=20
    )


def test_learned_guidance_mixes_all_blocks() -> None:
    locality = load_recipe("cifar100-deit-ti-learned").objective.locality
    assert locality is not None
    assert locality.student_blocks == "learned"


def test_one_teacher_serves_all_seeds_of_a_published_student() -> None:
    first, second = (
        teacher_recipe(load_recipe("cifar100-deit-ti-lg", [f"seed={seed}"])) for seed in (1, 2)
    )
    assert first == second
    assert first.seed == 1


def test_nobody_is_guided_without_being_asked() -> None:
    assert load_recipe("cifar100-deit-ti").teacher is None
    assert load_recipe("cifar100-resnet56").teacher is None


def test_every_recipe_says_what_it_is() -> None:
    for name in packaged_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description, name
        lines = header(name).splitlines()
        assert lines[0].startswith("Reproduces: "), name
        assert any(line.startswith(f"Command:    vitrellis train {name}") for line in lines), name


def test_published_figures_are_quoted() -> None:
    for name, top1 in PUBLISHED_TOP1.items():
        lines = header(name).splitlines()
        assert any(line.startswith(f"Published:  {top1}") for line in lines), name
        assert any(line.startswith("Ours: ") for line in lines), name


def test_every_teacher_recipe_can_be_loaded() -> None:
    for name in packaged_recipes():
        recipe = load_recipe(name)
        if recipe.teacher is not None:
            data = teacher_recipe(recipe).data
            assert data.model_copy(update={"seed": recipe.data.seed}) == recipe.data, name


@pytest.mark.parametrize(
    ("guided", "alone"),
    [
        ("demo", "demo-alone"),
        ("photos", "photos-alone"),
        ("few-cifar10-lt-vit", "few-cifar10-lt-vit-balanced"),
        ("few-cifar100-dhvt", "few-cifar100-dhvt-alone"),
        ("few-cifar100-vit", "few-cifar100-vit-alone"),
        ("few-photos-dhvt", "few-photos-dhvt-alone"),
        ("few-photos-vit", "few-photos-vit-alone"),
    ],
)
def test_a_control_differs_only_in_guidance(guided: str, alone: str) -> None:
    changes = {"name": alone, "description": None, "teacher": None}
    objective = {"locality": None, "kd": None}
    recipe = load_recipe(guided)
    control = load_recipe(alone).model_copy(update={"description": None})
    changes["objective"] = recipe.objective.model_copy(update=objective)  # type: ignore[assignment]
    assert recipe.model_copy(update=changes) == control


def test_models_exist_and_have_the_blocks_that_are_compared() -> None:
    def blocks_of(recipe: Recipe) -> int:
        with torch.device("meta"):  # without weights
            model = create_model(
                recipe.model.name,
                num_classes=10,
                img_size=recipe.input.img_size,
                **recipe.model.args,
            )
        return num_blocks(model)

    for name in packaged_recipes():
        recipe = load_recipe(name)
        student_blocks = blocks_of(recipe)
        locality = recipe.objective.locality
        if locality is None:
            continue
        assert max(locality.teacher_blocks) < blocks_of(teacher_recipe(recipe)), name
        if locality.student_blocks != "learned":
            assert max(locality.student_blocks) < student_blocks, name
