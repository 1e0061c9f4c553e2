"""Guessing is called guessing, and knowledge is not, at the rate that the level says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import confusion_matrix

from vitrellis.analysis.chance import chance_warnings

NAMES = ("free", "crack", "hole", "fray", "uneven")
TILES = (144, 17, 18, 10, 16)
"""Test images of the classes of magnetic tiles: the largest is 70 % of them."""


def warnings_of(true: np.ndarray, answers: np.ndarray) -> str:
    confusion = confusion_matrix(true, answers, labels=range(len(NAMES)))
    return "; ".join(chance_warnings(torch.from_numpy(confusion), NAMES))


def tiles() -> np.ndarray:
    return np.repeat(np.arange(5), TILES)


@pytest.mark.parametrize("answer", [0, 3])
def test_a_constant_answer(answer: int) -> None:
    said = warnings_of(tiles(), np.full(sum(TILES), answer))
    accuracy = 100 * TILES[answer] / sum(TILES)
    assert f"not better than always answering the largest class: accuracy {accuracy:.1f} %" in said
    assert "70.2 % of the 205 images are 'free'" in said
    assert "near chance: class-balanced accuracy 20.0 %" in said


def test_right_answers() -> None:
    assert warnings_of(tiles(), tiles()) == ""


def test_balance_that_costs_accuracy_is_told_from_chance() -> None:
    """All small classes right, half of the largest one: worse than a constant, far from chance."""
    answers = tiles()
    answers[:72] = 1
    said = warnings_of(tiles(), answers)
    assert "not better than always answering the largest class: accuracy 64.9 %" in said
    assert "near chance" not in said


@pytest.mark.parametrize("habit", [(1, 1, 1, 1, 1), TILES, (1, 8, 1, 0, 0)])
def test_answers_at_random_are_near_chance_in_19_of_20_cases(habit: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    shares = np.array(habit) / sum(habit)
    runs = 400
    said = [warnings_of(tiles(), random.choice(5, size=sum(TILES), p=shares)) for _ in range(runs)]
    near = sum("near chance" in text for text in said)
    # 95 % by the level, within what the count of runs and the approximation leave open
    assert binom.ppf(1e-4, runs, 0.93) <= near <= binom.ppf(1 - 1e-4, runs, 0.97)


@pytest.mark.parametrize(("better", "expected"), [(4, "not clearly better"), (5, "")])
def test_few_images_do_not_show_a_difference(better: int, expected: str) -> None:
    """Five to none is the least that the exact sign test takes for better: 1/32 is below 5 %."""
    true = np.array([0] * 10 + [1] * 9)
    answers = np.array([0] * 10 + [1] * better + [0] * (9 - better))
    said = warnings_of(true, answers)
    assert said.startswith(expected)
    assert bool(said) == bool(expected)


def test_one_class_cannot_be_compared() -> None:
    assert warnings_of(np.zeros(4, dtype=int), np.zeros(4, dtype=int)) == ""
