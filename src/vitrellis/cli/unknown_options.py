"""Explains an option that a command does not have, where keys of a recipe can be given as well."""

from __future__ import annotations

import difflib
from typing import Any

from typer.core import TyperCommand

from vitrellis.errors import UsageError, no_such_option

_CLOSE = 0.6
"""How alike two words are, from 0 to 1, of which one may be meant by the other."""
_CLOSE_KEY = 0.75
"""The same for keys, of which there are many more than options."""


class CommandWithKeys(TyperCommand):
    """A command that takes `key=value`, and names the option or the key that a wrong word meant.

    It needs `ignore_unknown_options`, by which words of unknown options are among its arguments.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Sets the parameters of a call.

        Args:
            ctx: The call, click's or typer's own, as the version of typer has it.
            args: The words after the name of the command.

        Raises:
            UsageError: If a word with dashes is no option.
        """
        asks_for_help = any(word in ctx.help_option_names for word in args)
        if not (ctx.resilient_parsing or asks_for_help):  # the first is a shell's completion
            self._check(self._arguments(ctx, args))
        return super().parse_args(ctx, args)

    def _arguments(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that are neither options nor values of options."""
        values, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        words: list[str] = []
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                value = values.get(parameter.name)
                several = value if isinstance(value, list | tuple) else [value]
                words += [each for each in several if isinstance(each, str)]
        return words

    def _check(self, words: list[str]) -> None:
        for position, word in enumerate(words):
            if word.startswith("-") and word != "-":
                options = [name for parameter in self.params for name in parameter.opts]
                raise _no_option(word, words[position + 1 :], [*options, "--help"])


def _no_option(word: str, following: list[str], options: list[str]) -> UsageError:
    """The error for a word with dashes, by the words after it and the options of the command."""
    from vitrellis.recipe import Recipe
    from vitrellis.recipe.messages import keys_meant_by, words_for_keys

    option, equals, value = word.partition("=")
    if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    name = option.lstrip("-").replace("-", "_")
    meant = _options_like(option, options)
    keys = keys_meant_by(name, Recipe)
    if not keys and not meant:
        close = difflib.get_close_matches(name, words_for_keys(Recipe), n=1, cutoff=_CLOSE_KEY)
        keys = keys_meant_by(close[0], Recipe) if close else []
    keys = [key for key in keys if not key.startswith("teacher.")]
    is_key = len(keys) == 1
    if meant:
        key = f", or {keys[0]}={value or 'VALUE'} (keys have no dashes)" if is_key else ""
        return UsageError(
            f"command line: {option}: no such option. Did you mean {' or '.join(meant)}{key}? "
            "--help lists the options"
        )
    if is_key:
        return no_such_option(f"{option}={value or 'VALUE'}", keys[0])
    return no_such_option(option)


def _options_like(option: str, options: list[str]) -> list[str]:
    """The options that may be meant: those that begin with a single letter, or the nearest one."""
    name = option.lstrip("-")
    by_name = {each.lstrip("-"): each for each in options if each.startswith("--")}
    if len(name) == 1:
        return [each for known, each in sorted(by_name.items()) if known.startswith(name)]
    return [by_name[near] for near in difflib.get_close_matches(name, by_name, 1, _CLOSE)]
