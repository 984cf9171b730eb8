"""Templates of files that deployment completes: checked before anything starts, rendered on our side, never in a guest.

Pure. They run in jinja2's sandbox: a manifest may come from elsewhere. An unknown name is an error, as is a fact that
is not required.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contextualize.declared import Declared

if TYPE_CHECKING:
    import jinja2
    import jinja2.nodes

NAMES = ("this", "cluster", "roles", "nodes", "facts", "data", "parameters")


class TemplateError(ValueError):
    """A template that cannot be rendered: which file, and why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node in a template."""

    name: str
    role: str
    address: str
    full: str
    cpus: int
    memory: int

    @property
    def short(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class _Parsed:
    template: jinja2.Template
    personal: bool
    facts: frozenset[str]


class Templates:
    """Compiles each text once. jinja2 is read when the first is."""

    def __init__(self) -> None:
        self._environment: jinja2.Environment | None = None
        self._parsed: dict[str, _Parsed] = {}

    def personal(self, path: str, text: str) -> bool:
        """Whether what it renders to is another on each node: it looks at `this`. Raises TemplateError."""
        return self._take(path, text).personal

    def facts(self, path: str, text: str) -> frozenset[str]:
        """The facts that it names. Raises TemplateError."""
        return self._take(path, text).facts

    def render(
        self, path: str, text: str, scope: Mapping[str, Any], hidden: Collection[str] = ()
    ) -> str:
        """hidden  texts that no error may hold. Raises TemplateError."""
        import jinja2

        parsed = self._take(path, text)
        try:
            return parsed.template.render(scope)
        except jinja2.TemplateError as cause:
            said = f"{path}: {cause}"
        except Exception as cause:  # a filter or an operator on values that it does not take
            said = f"{path}: cannot be rendered: {cause}"
        for secret in sorted(hidden, key=len, reverse=True):
            for form in (secret, repr(secret)[1:-1], secret.strip()):
                said = said.replace(form, "***") if form else said
        raise TemplateError(said)

    def _take(self, path: str, text: str) -> _Parsed:
        found = self._parsed.get(text)
        if found is None:
            import jinja2
            from jinja2 import meta

            if self._environment is None:
                self._environment = environment()
            try:
                tree = self._environment.parse(text)
                template = self._environment.from_string(text)
            except jinja2.TemplateError as cause:
                raise TemplateError(f"{path}: {cause}") from None
            personal = "this" in meta.find_undeclared_variables(tree)
            found = self._parsed[text] = _Parsed(template, personal, frozenset(_facts_used(tree)))
        return found


def environment() -> jinja2.Environment:
    """The environment of context templates: sandboxed, undefined names are errors."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )


def flaws(role: Declared) -> list[tuple[str, str]]:
    """(path, what is wrong) of templates that no cluster could render: bad syntax, names that there are not, facts that
    the role does not require.
    """
    import jinja2
    from jinja2 import meta

    found = []
    required = {need.fact for need in role.requires if need.fact}
    for file in role.files:
        if file.text is None:
            continue
        try:
            parsed = environment().parse(file.text)
        except jinja2.TemplateSyntaxError as cause:
            found.append((file.path, f"line {cause.lineno}: {cause.message}"))
            continue
        free = meta.find_undeclared_variables(parsed)
        found += [
            (file.path, f"'{name}' is not known to templates")
            for name in sorted(free - set(NAMES) - environment().globals.keys())
        ]
        for name in _facts_used(parsed):
            if name not in required:
                found.append((file.path, f"the fact {name} is used and not required"))
    return found


def _facts_used(parsed: jinja2.nodes.Template) -> Iterator[str]:
    """Names in facts.NAME and facts["NAME"]."""
    from jinja2 import nodes

    for dotted in parsed.find_all(nodes.Getattr):
        if isinstance(dotted.node, nodes.Name) and dotted.node.name == "facts":
            yield dotted.attr
    for item in parsed.find_all(nodes.Getitem):
        key = getattr(item.arg, "value", None)
        if isinstance(item.node, nodes.Name) and item.node.name == "facts" and isinstance(key, str):
            yield key
