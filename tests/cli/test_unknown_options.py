"""A word with dashes that is no option: the option or the key that was meant is named."""

from __future__ import annotations

import pytest

from tests.cli.command import assert_one_error, vitrellis


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train photos --ot x", "Did you mean --out?"),
        ("train --ot x photos", "Did you mean --out?"),
        ("train photos --frsh", "Did you mean --fresh?"),
        ("train photos --quite", "Did you mean --quiet?"),
        ("train photos -o x", "Did you mean --out?"),
        ("train photos -qo x", "Did you mean --out?"),
        ("compare demo -j 2", "Did you mean --jobs or --json?"),
        ("train photos --devce cpu", "machine.accelerator=cpu"),
        ("train photos --epoch 3", "training.epochs=3"),
        ("train photos --weigth-decay=0.1", "optimizer.weight_decay=0.1"),
        ("train photos --zzz", "--zzz: no such option (--help lists the options)"),
        ("compare demo --seed 3", "Did you mean --seeds, or seed=3 (keys have no dashes)?"),
        ("sweep demo --ovr optimizer.lr=1..2", "Did you mean --over?"),
        ("import x --ot y", "Did you mean --out?"),
        ("bench --trian demo", "Did you mean --train?"),
        ("recipes show demo --epochs 3", "training.epochs=3"),
    ],
)
def test_what_was_meant_is_named(words: str, meant: str) -> None:
    assert_one_error(vitrellis(*words.split()), 2, meant)


@pytest.mark.parametrize("words", ["train --ot --help", "train photos --frsh -h"])
def test_help_is_given_all_the_same(words: str) -> None:
    assert vitrellis(*words.split()).stdout.startswith("Usage: vitrellis train ")
