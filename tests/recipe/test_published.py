"""Each packaged recipe against the published settings, which are facts in `published/`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tools.compare_with_published import (
    PAGE,
    Difference,
    Group,
    Setting,
    page,
    read_groups,
    same,
    wrong,
)
from vitrellis.recipe import packaged_recipes

GROUPS = read_groups()
REPRODUCING = (
    "cifar",
    "flowers102-",
    "chaoyang-",
    "tiny-imagenet-",
    "domainnet-",
    "imagenet-",
    "inaturalist",
)
PARTLY_PUBLISHED = {
    "tiny-imagenet-resnet50",  # teachers of which the papers state a few settings
    "imagenet-lt-resnet50",
    "inaturalist-2018-resnet50",
    "cifar100-deit-ti-lg-lskd",  # two published methods at once, which was never published
}
WHAT_MATTERS = {
    "input.img_size",
    "input.normalization",
    "augmentation.crop",
    "augmentation.flip",
    "augmentation.rand_augment",
    "augmentation.erasing",
    "augmentation.mixup",
    "augmentation.cutmix",
    "augmentation.repeats",
    "model.name",
    "optimizer.name",
    "optimizer.weight_decay",
    "optimizer.decay_all",
    "effective_lr",
    "schedule.name",
    "schedule.per",
    "schedule.warmup_epochs",
    "training.epochs",
    "training.batch_size",
    "training.clip_grad",
    "training.drop_last",
    "training.ema",
    "training.precision",
}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_recipes_are_as_published_or_say_how_they_differ(group: Group) -> None:
    assert wrong(group) == []


def test_every_setting_that_matters_is_among_the_facts_of_every_recipe() -> None:
    known: dict[str, set[str]] = {
        name: set() for name in packaged_recipes() if name.startswith(REPRODUCING)
    }
    for group in GROUPS:
        for name in group.recipes:
            known[name] |= {setting.key for setting in group.settings}
    missing = {n: WHAT_MATTERS - keys for n, keys in known.items() if n not in PARTLY_PUBLISHED}
    assert {name: keys for name, keys in missing.items() if keys} == {}
    assert all(known.values())


def test_the_page_is_that_of_the_facts_and_the_recipes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(GROUPS), (
        "run python tools/compare_with_published.py"
    )


PLAIN = Group("A", "code", ("demo",), (Setting("training.epochs", 36, "file"),))


def test_a_setting_that_drifts_is_found() -> None:
    assert wrong(PLAIN) == []
    drifted = replace(PLAIN, settings=(Setting("training.epochs", 37, "file"),))
    assert wrong(drifted) == ["demo: training.epochs is 36, published 37 (file)"]


def test_a_difference_is_said_in_the_recipe_or_found() -> None:
    setting = Setting("training.epochs", 37, "file")
    said = Difference("training.epochs", "reason", "the demo's student, guided by its teacher")
    assert wrong(replace(PLAIN, settings=(setting,), differences=(said,))) == []
    unsaid = replace(PLAIN, settings=(setting,), differences=(replace(said, says="epochs"),))
    assert wrong(unsaid) == ["demo: no comment says 'epochs' (on training.epochs)"]
    assert wrong(replace(PLAIN, differences=(said,))) == [
        "A: training.epochs is as published by now"
    ]


def test_a_group_without_recipes_is_found() -> None:
    assert wrong(replace(PLAIN, recipes=())) == ["A: no recipe has such a name"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (5e-4, 0.0005, True),
        (1, 1.0, True),
        (1, True, False),
        (0, None, False),
        ([1, 2], [1.0, 2.0], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 2}, False),
        ("12", [1, 2], False),
    ],
)
def test_values_are_compared_by_what_they_mean(
    first: object, second: object, expected: bool
) -> None:
    assert same(first, second) is expected
