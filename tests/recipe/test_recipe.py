from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from tests.recipe.lookup import values
from vitrellis.errors import UsageError
from vitrellis.objectives import AdaptiveWeight, OffAfterWeight, RampWeight
from vitrellis.recipe import (
    Recipe,
    View,
    effective_lr,
    recipe_from,
    without_guidance,
)
from vitrellis.recipe.messages import RENAMED_KEYS

LOCALITY = {"student_blocks": [0, 6, 11]}
TEACHER = {"recipe": "cifar100-resnet56"}


def minimal(**sections: Any) -> dict[str, Any]:
    return {"model": {"name": "resnet18"}, "training": {"epochs": 3}} | sections


def guided(**locality: Any) -> dict[str, Any]:
    return minimal(teacher=TEACHER, objective={"locality": LOCALITY | locality})


def mistake(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        recipe_from(values)
    return str(caught.value)


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        pending: list[Any] = [field.annotation]
        while pending:
            annotation = pending.pop()
            pending.extend(get_args(annotation))
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from sections(annotation)


SECTIONS = list(dict.fromkeys(sections(Recipe)))


def test_model_and_epochs_are_enough() -> None:
    recipe = recipe_from(minimal())
    assert recipe.name == "run"
    assert recipe.data.source == "fashion-mnist"
    assert recipe.teacher is None
    assert recipe.objective.cross_entropy.weight == 1


def test_model_and_epochs_are_required() -> None:
    message = mistake({"seed": 1})
    assert "run: model: missing" in message
    assert "run: training: missing" in message


def test_a_recipe_cannot_be_changed() -> None:
    recipe = recipe_from(minimal())
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3


def test_every_field_is_documented() -> None:
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["frozen"], section


def test_null_can_mean_not_given_because_optional_fields_default_to_none() -> None:
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            if NoneType in get_args(field.annotation):
                assert field.get_default() is None, f"{section.__name__}.{name}"


def test_null_counts_as_not_written() -> None:
    recipe = recipe_from(minimal(optimizer={"lr": None}, teacher=None))
    assert recipe == recipe_from(minimal())


def test_an_unknown_key_is_refused_even_if_null() -> None:
    assert "trainer: unknown key. Did you mean 'training'?" in mistake(minimal(trainer=None))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (2, 2.0),
        (
            {"value": 1, "to": 0, "epochs": 9, "shape": "cosine"},
            RampWeight(value=1, to=0, epochs=9, shape="cosine"),
        ),
        ({"value": 1, "off_after": 5}, OffAfterWeight(value=1, off_after=5)),
        (
            {"value": 1, "adaptive": True, "min_epoch": 20},
            AdaptiveWeight(value=1, adaptive=True, min_epoch=20),
        ),
    ],
)
def test_weights_are_numbers_or_schedules(written: Any, expected: Any) -> None:
    recipe = recipe_from(guided(weight=written))
    assert recipe.objective.locality is not None
    assert recipe.objective.locality.weight == expected


def test_the_adaptive_weight_defaults_to_the_published_rule() -> None:
    weight = AdaptiveWeight(value=2.5, adaptive=True)
    assert (weight.window, weight.threshold, weight.relative) == (50, -0.02, False)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"value": 2}, "not a weight; it would be a number, or one of"),
        ({"to": 2}, "weight.value: missing. The weight in the first epoch."),
        ({"value": 2, "off_after": 0}, "weight.off_after: 0 is too small; it must be at least 1"),
        ({"value": 2, "adaptive": False}, "weight.adaptive: false is not possible here"),
        ({"value": 2, "adaptive": True, "windw": 3}, "Did you mean 'window'?"),
        (-1, "weight: -1 is too small; it must be at least 0"),
        ("heavy", "weight: 'heavy' is not a number"),
        (True, "weight: true is not a number"),
    ],
)
def test_bad_weights_are_explained(weight: Any, message: str) -> None:
    assert message in mistake(guided(weight=weight))


def test_guidance_needs_a_teacher() -> None:
    message = mistake(minimal(objective={"locality": LOCALITY, "kd": {}}))
    assert "teacher: missing, but needed by objective.locality and objective.kd" in message


def test_a_teacher_needs_a_term_that_learns_from_it() -> None:
    assert "teacher: no term learns from it" in mistake(minimal(teacher=TEACHER))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"mode": "eval"}, "exactly one of recipe, run, model and given; none of them given"),
        ({"recipe": "a", "model": "b"}, "recipe and model given"),
        ({"recipe": "a", "pretrained": True}, "pretrained goes with model"),
        ({"run": "runs/x", "overrides": ["seed=1"]}, "overrides goes with recipe"),
        ({"recipe": "a", "offline": True, "mode": "train"}, "drop one of them"),
        ({"recipe": "a", "mode": "test"}, "it must be 'eval' or 'train'"),
    ],
)
def test_a_teacher_is_given_in_exactly_one_way(teacher: Any, message: str) -> None:
    assert message in mistake(minimal(teacher=teacher, objective={"locality": LOCALITY}))


def test_blocks_are_compared_in_pairs() -> None:
    assert "both must be of one length" in mistake(guided(student_blocks=[0, 1]))


def test_learned_blocks_need_no_pairs() -> None:
    recipe = recipe_from(guided(student_blocks="learned"))
    assert recipe.objective.locality is not None
    assert recipe.objective.locality.student_blocks == "learned"


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"training": {"epochs": "ten"}}, "training.epochs: 'ten' is not a whole number"),
    ({"training": {"epochs": True}}, "training.epochs: true is not a number"),
    ({"training": {"epochs": 1.5}}, "training.epochs: 1.5 is not a whole number"),
    (
        {"training": {"epochs": 1, "batch_size": 0}},
        "training.batch_size: 0 is too small; it must be at least 1",
    ),
    ({"training": {"epochs": 1, "batch_size": 8, "accumulate": 3}}, "does not divide"),
    ({"training": 5}, "training: 5 is not a mapping of keys. Known keys: epochs"),
    ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: nan is not a finite number"),
    ({"optimizer": {"name": "sdg"}}, "optimizer.name: unknown optimizer 'sdg'. Did you mean"),
    ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: needs one more value"),
    ({"schedule": {"warmup_epochs": 3}}, "schedule.warmup_epochs: 3 is too long"),
    ({"teacher": {"epochs": 2}}, "Did you mean 'teacher.overrides.training.epochs'?"),
    (
        {"teachers": {"a": {"epochs": 2}}},
        "Did you mean 'teachers.a.overrides.training.epochs'?",
    ),
    ({"schedule": {"min_lr": 1}}, "schedule.min_lr: 1 is more than the learning rate, 0.001"),
    ({"data": {"source": "cifar"}}, "unknown source 'cifar'. Did you mean 'cifar10'?"),
    ({"data": {"val_fraction": 1}}, "data.val_fraction: 1 is too large; it must be less than"),
    ({"input": {"img_size": 0}}, "input.img_size: 0 is too small"),
    ({"input": {"img_size": [8, 0]}}, "input.img_size.1: 0 is too small"),
    ({"input": {"img_size": [8, 8, 3]}}, "input.img_size: [8, 8, 3] has too many values"),
    ({"input": {"cache": "maybe"}}, "it must be 'auto', true or false"),
    (
        {"input": {"normalization": "imagnet"}},
        "'imagenet', 'cifar', 'measured' or 'model', or a mapping with mean and std",
    ),
    ({"input": {"normalization": {"mean": [1]}}}, "input.normalization.std: missing"),
    ({"input": {"normalization": {"mean": [0, 0], "std": [1]}}}, "2 means and 1 standard"),
    ({"augmentation": {"scale": [1, 0.5]}}, "the smaller number goes first"),
    ({"augmentation": {"rand_augment": "strong"}}, "such as `rand-m9-mstd0.5-inc1`"),
    (
        {"augmentation": {"rand_augment": "rand-m9", "auto_augment": "cifar10"}},
        "augmentation: rand_augment and auto_augment replace each other; give one of them",
    ),
    ({"augmentation": {"auto_augment": "cifar"}}, "must be 'cifar10', 'imagenet' or 'svhn'"),
    (
        {"augmentation": {"color_jitter": [0.4, 0.4, 0.4, 0.6]}},
        "augmentation.color_jitter.3: 0.6 is too large; it must be at most 0.5",
    ),
    ({"augmentation": {"color_jitter": [0.4] * 3}}, "color_jitter: needs one more value"),
    ({"augmentation": {"blur_sigma": [2, 0.1]}}, "blur_sigma is [2.0, 0.1]; the smaller"),
    ({"augmentation": {"cutout": -1}}, "augmentation.cutout: -1 is too small"),
    ({"augmentation": {"cutout": 225}}, "augmentation.cutout: 225 pixels are more than images"),
    (
        {"augmentation": {"second_view": {"blur": 0.5}}},
        "augmentation.second_view: no term looks at it. Add objective.paco, or remove it",
    ),
    (
        {"objective": {"paco": {}}, "augmentation": {"second_view": {"blurr": 0.5}}},
        "augmentation.second_view.blurr: unknown key. Did you mean 'blur'?",
    ),
    (
        {"objective": {"paco": {}}, "augmentation": {"second_view": {"mixup": 0.5}}},
        "augmentation.second_view.mixup: unknown key",
    ),
    (
        {
            "machine": {"strategy": "fsdp"},
            "training": {"epochs": 3, "ema": 0.99, "precision": "16-mixed"},
        },
        "fsdp needs training.ema=null training.precision=bf16-mixed; use that, or machine.str",
    ),
    ({"machine": {"strategy": "fsdp"}, "optimizer": {"name": "cadamw"}}, "not with cadamw"),
    ({"machine": {"strategy": "fsdp2"}}, "it must be 'ddp' or 'fsdp'"),
    ({"machine": {"workers": "many"}}, "it must be 'auto', or a whole number"),
    (
        {"objective": {"cross_entropy": {"tau": 2}}},
        "tau is for loss: logit_adjustment, and the loss here is softmax",
    ),
    ({"deferred": {"after_epochs": 3}}, "deferred.after_epochs: 3 is too late for training"),
    ({"deferred": {"after_epochs": 1, "share": 0.5}}, "give one of them"),
    ({"deferred": {"share": 1}}, "deferred.share: 1 is too large"),
    ({"deferred": {"reweight": "both"}}, "the distillation head, and no term has it"),
    (
        {"teacher": TEACHER, "objective": {"hard": {}}, "deferred": {"reweight": "both"}},
        "and no term has it. Set objective.hard.head=distillation",
    ),
    ({"schedule": {"name": "step"}}, "it needs both, such as milestones: [160, 180]"),
    ({"schedule": {"milestones": [1]}}, "belong to name: step"),
    (
        {"schedule": {"name": "step", "milestones": [1, 2], "factors": [0.1]}},
        "2 milestones and 1 factors",
    ),
    (
        {"schedule": {"name": "step", "milestones": [2, 2], "factors": [0.1, 0.1]}},
        "they should rise",
    ),
    (
        {"schedule": {"name": "step", "milestones": [7], "factors": [0.1]}},
        "schedule.milestones: 7 is too late for training.epochs",
    ),
    ({"name": "../x"}, "name: '../x' is not of the right form"),
    ({"model": {"name": None}}, "model.name: missing"),
]


def test_a_mistake_is_one_clear_line() -> None:
    for wrong_sections, message in MISTAKES:
        line = mistake(minimal(**wrong_sections))
        assert message in line
        assert line.startswith("run: ")
        assert "\n" not in line
        assert "pydantic" not in line


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_a_key_of_an_older_recipe_is_answered_with_its_new_name(old: str, new: str) -> None:
    for value in ("3", "null"):
        with pytest.raises(UsageError) as caught:
            recipe_from(minimal(), [f"{old}={value}"])
        assert str(caught.value) == f"command line: {old}: this key is now called {new}"
    recipe = recipe_from(minimal(), [f"{new.rpartition('.')[0]}={{}}"])
    assert list(values(recipe, {new: None})) == [new]


def test_all_mistakes_are_listed() -> None:
    answer = mistake(minimal(modle={}, optimizer={"lr": "fast"}, seed=-1)).splitlines()
    assert answer[0] == "3 mistakes in the recipe:"
    assert len(answer) == 4


def test_an_item_that_is_refused_does_not_make_its_list_too_short() -> None:
    answer = mistake(minimal(input={"normalization": {"mean": [0], "std": [0]}}))
    assert answer == "run: input.normalization.std.0: 0 is too small; it must be more than 0"


def test_a_second_view_has_keys_of_its_own_that_can_be_overridden() -> None:
    views = {"flip": 0.1, "second_view": {"blur": 0.5, "grayscale": 0.2}}
    values = minimal(objective={"paco": {}}, augmentation=views)
    second = recipe_from(values, ["augmentation.second_view.blur=0"]).augmentation.second_view
    assert second == View(blur=0, grayscale=0.2)
    assert second.flip == 0.5
    with_it = recipe_from(values, ["objective.paco=null", "augmentation.second_view=null"])
    assert with_it.augmentation.second_view is None


def test_sizes_are_one_number_or_two() -> None:
    assert recipe_from(minimal(input={"img_size": 32})).input.img_size == 32
    assert recipe_from(minimal(input={"img_size": [32, 48]})).input.img_size == (32, 48)


def test_the_home_folder_is_written_as_in_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = recipe_from(minimal(data={"source": "folder", "root": "~/photos"}))
    assert recipe.data.root == tmp_path / "photos"


def test_the_learning_rate_is_as_given_unless_it_is_per_batch() -> None:
    training = {"epochs": 3, "batch_size": 256}
    plain = recipe_from(minimal(training=training, optimizer={"lr": 1e-3}))
    scaled = recipe_from(minimal(training=training, optimizer={"lr": 1e-3, "lr_per_batch": 512}))
    assert effective_lr(plain) == 1e-3
    assert effective_lr(scaled) == pytest.approx(5e-4)


def test_a_long_tail_and_a_balanced_part_exclude_each_other() -> None:
    data = {"train_size": 100, "long_tail": {"imbalance_factor": 10}}
    message = mistake(minimal(data=data))
    assert "train_size" in message
    assert "data.long_tail.largest" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("profile", "balanced"), ("imbalance_factor", 0.5), ("seed", -1), ("largest", 0)],
)
def test_a_long_tail_out_of_range(key: str, value: object) -> None:
    assert f"data.long_tail.{key}" in mistake(minimal(data={"long_tail": {key: value}}))


@pytest.mark.parametrize(
    ("reweight", "left"), [("both", "class"), ("distillation", "none"), ("class", "class")]
)
def test_without_a_teacher_nothing_of_its_is_re_weighted(reweight: str, left: str) -> None:
    recipe = recipe_from(
        minimal(
            teacher=TEACHER,
            objective={"hard": {"head": "distillation"}},
            deferred={"reweight": reweight},
        )
    )
    alone = without_guidance(recipe)
    assert alone.deferred is not None
    assert alone.deferred.reweight == left
