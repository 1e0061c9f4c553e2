"""The section `objective` of a recipe, with a key for each term in `vitrellis.objectives`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from vitrellis.objectives import TERMS, TermSection
from vitrellis.settings import Section


class _Terms(Section):
    """The terms of the loss. All terms that are given are added, each times its weight."""

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any:
            """The section of a term, None if the recipe does not name it."""

    @property
    def terms(self) -> dict[str, TermSection]:
        """The terms that the recipe names, by key, in the order in which they are added."""
        sections = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: section for key, section in sections.items() if section is not None}

    @property
    def guided_terms(self) -> dict[str, TermSection]:
        """The terms that learn from a teacher, by key."""
        return {key: section for key, section in self.terms.items() if section.needs_teacher}

    @property
    def needs_second_view(self) -> bool:
        """Whether a term compares two views of each image."""
        return any(section.needs_second_view for section in self.terms.values())


def _fields() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for term in TERMS:
        meaning = (term.__doc__ or "").partition("\n")[0]
        if term.in_every_objective:
            fields[term.key] = (term, Field(default=term(), description=meaning))
        else:
            fields[term.key] = (term | None, Field(default=None, description=meaning))
    return fields


if TYPE_CHECKING:
    ObjectiveSection = _Terms
else:
    ObjectiveSection = create_model(
        "ObjectiveSection", __base__=_Terms, __doc__=_Terms.__doc__, **_fields()
    )
