"""What one document of a recipe sees of the parameters: its templates rendered, its conditions decided.

A name that is no parameter is a problem, not an empty text; so is one in a condition, even where it would not be
looked at.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.document import Document, Place
from builder.errors import Problem, close, shown
from builder.language.kinds import Value

if TYPE_CHECKING:
    import jinja2


_MARKS = ("{{", "{%", "{#", "\r")
"""A text without one of these comes out of jinja2 as it went in."""


@functools.cache
def _environment() -> jinja2.Environment:
    """Read when the first template or condition is: most recipes have none, and it costs 25 ms."""
    import jinja2

    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


@dataclass(frozen=True, slots=True)
class Scope:
    """One document's texts and conditions, over the parameters that it sees."""

    document: Document
    values: Mapping[str, Value]
    problems: list[Problem]

    def wrong(self, place: Place, what: str, hint: str = "") -> None:
        self.problems.append(self.document.problem(place, what, hint))

    def render(self, text: str, place: Place, inside: str = "") -> str:
        if not any(mark in text for mark in _MARKS):
            return text  # what jinja2 would make of it
        import jinja2

        named = f"{inside}: " if inside else ""
        try:
            return _environment().from_string(text).render(self.values)
        except jinja2.UndefinedError as cause:
            missing = re.search(r"'([^']+)' is undefined", str(cause))
            name = missing[1] if missing else ""
            what = f"{named}no parameter '{name}'" if name else f"{named}{cause}"
            self.wrong(place, what, close(name, self.values) if name else "")
        except jinja2.TemplateSyntaxError as cause:
            said = (cause.message or "not a template").rstrip(".")
            self.wrong(place, f"{named}line {cause.lineno}: {said}")
        except Exception as cause:  # a filter or an operator on values that it does not take
            self.wrong(place, f"{named}cannot be rendered: {cause}")
        return ""

    def holds(self, when: str | None, place: Place) -> bool:
        """Whether an entry counts. A condition that cannot be decided is a problem, and false."""
        if when is None:
            return True
        from jinja2 import TemplateSyntaxError, meta

        place, environment = (*place, "when"), _environment()
        try:
            expression = environment.compile_expression(when, undefined_to_none=False)
            used = meta.find_undeclared_variables(
                environment.parse(f"{{% if {when} %}}{{% endif %}}")
            )
        except TemplateSyntaxError as cause:
            said = (cause.message or "it cannot be read").rstrip(".")
            hint = "write one over the parameters, as in tls or port > 1024"
            self.wrong(place, f"{shown(when)} is not an expression: {said}", hint)
            return False
        unknown = sorted(used - self.values.keys() - environment.globals.keys())
        for name in unknown:
            self.wrong(place, f"no parameter '{name}'", close(name, self.values))
        if unknown:
            return False
        try:
            return bool(expression(self.values))
        except Exception as cause:  # an operator on values that it does not take
            self.wrong(place, f"{shown(when)} cannot be decided: {cause}")
            return False
