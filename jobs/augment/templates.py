"""Prompt templates: text with the names of columns in braces, rendered by Jinja in its sandbox.

Nothing in a template can draw at random, ask for the time or read a file, so that a prompt follows from its row
alone. `{label}` and `{{ label }}` mean the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wanbatch.errors import UserError
from wanbatch.suggestions import did_you_mean

FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "replace", "round", "title", "trim")
"""Of Jinja's, those that a template may use; also `upper`, `int`, `float` and `abs`."""

LONGEST = 32_768


class _Environment(ImmutableSandboxedEnvironment):
    """Without operators that make much out of little."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise TemplateError(f"{operator} is not to be had in templates")


def _environment(doubled: bool) -> _Environment:
    braces = {} if doubled else {"variable_start_string": "{", "variable_end_string": "}"}
    environment = _Environment(undefined=StrictUndefined, autoescape=False, **braces)
    kept = (*FILTERS, "upper", "int", "float", "abs")
    environment.filters = {name: environment.filters[name] for name in kept}
    environment.globals = {}
    return environment


_ENVIRONMENTS = {doubled: _environment(doubled) for doubled in (False, True)}


def _of(text: str) -> _Environment:
    return _ENVIRONMENTS["{{" in text]


def check_template(text: str, columns: Collection[str], dataset: str, others: Collection[str] = ()) -> None:
    """Check a template before anything else happens.

    Args:
        text: of the template.
        columns: that it may name.
        dataset: what has them, for the message.
        others: names that it may use, too.
    Raises:
        UserError: It is no template, or it names what is not there.
    """
    try:
        tree = _of(text).parse(text)
        _compiled(text)
    except TemplateError as error:
        braces = ": write { and } around names of columns only" if "{" in text or "}" in text else ""
        raise UserError(f"template {text!r} cannot be read ({error}){braces}") from error
    for name in sorted(meta.find_undeclared_variables(tree)):
        if name not in columns and name not in others:
            there = ", ".join(sorted(columns)) or "none"
            raise UserError(
                f"template {text!r} names {name!r}, which is no column of {dataset}; there are: {there}"
                f"{did_you_mean(name, columns)}"
            )


def names_in(text: str) -> set[str]:
    """The names that a template uses. text: of a template that can be read."""
    return meta.find_undeclared_variables(_of(text).parse(text))


def render(text: str, values: Mapping[str, Any], name: str) -> str:
    """The prompt of one row.

    Args:
        text: of the template, checked.
        values: of the columns that it names.
        name: of the picture whose row it is, for messages.
    Raises:
        UserError: It cannot be rendered with these values.
    """
    there = {each: value for each, value in values.items() if value is not None}
    try:
        prompt = _compiled(text).render(there)
    except UndefinedError as error:
        missing = sorted(names_in(text) - there.keys())
        raise UserError(
            f"{name}: has no {missing[0]!r}, which template {text!r} names: fill it in, or write "
            f'{{{missing[0]} | default("...")}}'
            if missing
            else f"{name}: template {text!r} cannot be filled in ({error})"
        ) from error
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise UserError(f"{name}: template {text!r} cannot be filled in ({error})") from error
    prompt = " ".join(prompt.split())
    if len(prompt) > LONGEST:
        raise UserError(f"{name}: the prompt of template {text!r} is longer than {LONGEST} characters: shorten it")
    return prompt


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Template:
    return _of(text).from_string(text)
