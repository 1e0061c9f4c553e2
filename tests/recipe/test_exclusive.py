"""A key that is given takes the place of a base's keys that exclude it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, load_recipe, packaged_recipes, teacher_recipe

from .lookup import values

GUIDED = [name for name in packaged_recipes() if load_recipe(name).teacher is not None]


@pytest.mark.parametrize("name", GUIDED)
def test_one_word_uses_a_finished_teacher_again(name: str, tmp_path: Path) -> None:
    before, after = load_recipe(name), load_recipe(name, [f"teacher.run={tmp_path}"])
    assert before.teacher is not None
    assert after.teacher is not None
    changes = {"recipe": None, "overrides": (), "run": tmp_path}
    assert after.teacher == before.teacher.model_copy(update=changes)
    assert after.model_copy(update={"teacher": before.teacher}) == before


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("demo", "teacher.model=resnet18", {"teacher.model": "resnet18", "teacher.recipe": None}),
        ("cifar10-lt-deit-b", "deferred.share=0.9", {"deferred.after_epochs": None}),
        (
            "cifar100-lt-resnet32-paco",
            "augmentation.rand_augment=rand-m9",
            {"augmentation.auto_augment": None, "augmentation.cutout": 16},
        ),
        ("cifar100-lt-resnet32", "schedule.name=cosine", {"schedule.milestones": ()}),
        (
            "imagenet-lt-resnet50",
            "objective.cross_entropy.loss=balanced_softmax",
            {"objective.cross_entropy.margin": 0.5},
        ),
        (
            "cifar100-deit-ti-alg",
            "objective.locality.weight.off_after=124",
            {"objective.locality.weight.value": 2.5, "objective.locality.weight.off_after": 124},
        ),
        (
            "cifar100-deit-ti-alg",
            "objective.locality.weight={to: 0, epochs: 10}",
            {"objective.locality.weight.value": 2.5, "objective.locality.weight.epochs": 10},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_word_is_enough(name: str, override: str, expected: dict[str, Any]) -> None:
    assert values(load_recipe(name, [override]), expected) == expected


@pytest.mark.parametrize("first", ["pretrained", "weights"])
def test_weights_from_a_file_and_from_the_hub_replace_each_other(
    first: str, tmp_path: Path
) -> None:
    given = {"pretrained": "pretrained: true", "weights": "weights: w.safetensors"}
    second = {"pretrained": "init.weights=x.safetensors", "weights": "init.pretrained=true"}
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: demo-alone\ninit: {{{given[first]}}}\n")
    init = load_recipe(path, [second[first]]).init
    assert init.pretrained == (first == "weights")
    assert init.weights == (Path("x.safetensors") if first == "pretrained" else None)


def test_a_file_replaces_the_teacher_of_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cifar100-deit-ti-lg\nteacher: {run: there}\n")
    teacher = load_recipe(path).teacher
    assert teacher is not None
    assert (teacher.run, teacher.recipe, teacher.mode) == (Path("there"), None, "train")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["teacher.run=x", "teacher.recipe=demo-teacher"], "recipe and run given"),
        (["teacher=null"], "objective.locality=null objective.kd=null"),
        (["teachers.second.run=x"], "teacher=null"),
        (["data.long_tail.largest=20"], "data.train_size=null"),
        (["deferred.after_epochs=3", "deferred.share=0.5"], "give one of them"),
        (["deferred.after_epochs=50"], "deferred.share=0.8"),
    ],
)
def test_what_stays_a_mistake_says_what_to_type(overrides: list[str], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("demo", overrides)
    assert named in str(caught.value)


def overrides_of(recipe: Recipe) -> tuple[str, ...]:
    assert recipe.teacher is not None
    return recipe.teacher.overrides


def test_changes_of_a_teacher_are_dotted_keys_too() -> None:
    """Key by key they are added to the packaged recipe's, as a list they take its place."""
    dotted = ["teacher.overrides.training.epochs=3", "teacher.overrides.input.img_size=[32, 40]"]
    added = load_recipe("cifar100-deit-ti-lg", dotted)
    assert overrides_of(added) == ("seed=1", "training.epochs=3", "input.img_size=[32, 40]")
    teacher = teacher_recipe(added)
    assert (teacher.seed, teacher.training.epochs, teacher.input.img_size) == (1, 3, (32, 40))
    replaced = load_recipe("cifar100-deit-ti-lg", ["teacher.overrides=[training.epochs=3]"])
    assert overrides_of(replaced) == ("training.epochs=3",)
    both = load_recipe("demo", ["teacher.overrides=[seed=2]", "teacher.overrides.name='yes: 1'"])
    assert overrides_of(both) == ("seed=2", 'name="yes: 1"')
    assert teacher_recipe(both).name == "yes: 1"
