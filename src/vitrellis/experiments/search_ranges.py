"""The values of recipe keys that a sweep tries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitrellis.errors import UsageError
from vitrellis.recipe.yaml import parse_value

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SearchRange:
    """The values of a key that are tried.

    Attributes:
        key: The recipe's key.
        low: The least number; None for a list of choices.
        high: The largest number.
        is_integer: Whether they are whole numbers.
        is_log: Whether numbers are drawn evenly by their logarithm.
        choices: The texts of the values, if they are listed.
    """

    key: str
    low: float | None = None
    high: float | None = None
    is_integer: bool = False
    is_log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SearchRange:
        """The range of `key=low..high` or `key=a,b,c`.

        A range of positive numbers that spans a factor of ten or more is logarithmic.

        Raises:
            UsageError: If the text has another form.
        """
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise _not_a_range(text, "is no range")
        if ".." not in values:
            choices = tuple(choice.strip() for choice in values.split(","))
            if len(choices) < 2 or "" in choices:
                raise _not_a_range(text, "names fewer than two values")
            return cls(key, choices=choices)
        ends = [parse_value(end, f"--over {text}") for end in values.split("..", 1)]
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
            raise _not_a_range(text, "goes from or to what is no number")
        low, high = float(ends[0]), float(ends[1])
        if not low < high or not math.isfinite(high - low):
            raise _not_a_range(text, "does not rise")
        return cls(
            key,
            low,
            high,
            is_integer=all(isinstance(end, int) for end in ends),
            is_log=low > 0 and high / low >= 10,
        )

    def suggest(self, trial: optuna.Trial) -> str:
        """The value of a trial, as text; numbers have four digits."""
        if self.choices:
            return str(trial.suggest_categorical(self.key, self.choices))
        assert self.low is not None
        assert self.high is not None
        if self.is_integer:
            low, high = int(self.low), int(self.high)
            return str(trial.suggest_int(self.key, low, high, log=self.is_log))
        return f"{trial.suggest_float(self.key, self.low, self.high, log=self.is_log):.4g}"

    def ends(self) -> list[str]:
        """The extreme values, with which the recipe has to be valid."""
        if self.choices:
            return list(self.choices)
        ends = [self.low, self.high]
        return [str(int(end)) if self.is_integer else repr(end) for end in ends if end is not None]


def _not_a_range(text: str, what: str) -> UsageError:
    return UsageError(
        f"--over {text}: {what}. Use KEY=LOW..HIGH, such as optimizer.lr=1e-4..1e-2, or KEY=A,B,C"
    )
