"""Types of flags and arguments: what they take, derived from the fields of `Settings`, and how shells complete it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wanbatch.jobs.config.field_help import accepted
from wanbatch.jobs.config.settings import Settings, accepted_instead
from wanbatch.manifests.storage.urls import is_url, local_path
from wanbatch.pipeline.loading.registry import TINY
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS
from wanbatch.suggestions import did_you_mean

KNOWN_NAMES: dict[str, Iterable[str]] = {"sampler": SOLVERS, "schedule": SCHEDULES}


class FieldType(click.ParamType):
    """Takes what a field of `Settings` takes, by the field's own rules."""

    name = "text"
    explained = True  # whether the help has to say in words what it takes

    def __init__(self, field: FieldInfo):
        self.field = field

    @cached_property
    def adapter(self) -> TypeAdapter:
        """Validates a value as the field does."""
        kind: Any = self.field.annotation
        return TypeAdapter(Annotated[kind, *self.field.metadata] if self.field.metadata else kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Validate a value; one that the field does not take is a usage error that says what it takes."""
        try:
            return self.adapter.validate_python(value)
        except ValidationError:
            name = str(param.name) if param is not None else ""
            said = accepted_instead(name, value) if name in Settings.model_fields else accepted(self.field)
            self.fail(f"{value!r}: must be {said}", param, ctx)


class Word(click.Choice):
    """One of some words; another one is a usage error that names the nearest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return click's message with what was perhaps meant."""
        return super().get_invalid_choice_message(value, ctx).rstrip(".") + did_you_mean(str(value), self.choices)


class IntegerField(FieldType, click.IntRange):
    """A whole number; `--help` shows its range."""

    name = "integer"

    def __init__(self, field: FieldInfo, rules: list[Any]):
        FieldType.__init__(self, field)
        click.IntRange.__init__(self, **_range(rules))
        self.explained = any(isinstance(rule, annotated_types.MultipleOf) for rule in rules)


class FloatField(FieldType, click.FloatRange):
    """A number; `--help` shows its range."""

    name = "number"
    explained = False

    def __init__(self, field: FieldInfo, rules: list[Any]):
        FieldType.__init__(self, field)
        click.FloatRange.__init__(self, **_range(rules))


class NumberRange(click.FloatRange):
    """A number of a range; what is no number (`nan`), which no bound refuses, is a usage error, too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number

    def _describe_range(self) -> str:
        """What help says of the bounds: click's own words are `x<=None` where there are none."""
        return "" if self.min is None and self.max is None else super()._describe_range()


class IntegerOrWord(IntegerField):
    """A whole number, or one of some words like `auto`, which shells complete."""

    def __init__(self, field: FieldInfo, rules: list[Any], words: tuple[str, ...]):
        super().__init__(field, rules)
        self.words = words

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return `[INTEGER|auto]`."""
        return f"[INTEGER|{'|'.join(self.words)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the words."""
        return matching(self.words, incomplete)


class PathOrUrl(click.ParamType):
    """A path, or the URL of something in an object store, which stays text."""

    name = "path or url"

    def __init__(self, completed: Literal["file", "dir"] = "file"):
        self.completed = completed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Return a path as such and a URL as text."""
        return value if is_url(value) else local_path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete files, or folders."""
        return [CompletionItem(incomplete, type=self.completed)]


class ModelName(click.ParamType):
    """The name of the small model, a folder, or a hub id."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete folders and the name of the small model."""
        return [CompletionItem(incomplete, type="dir"), *matching([TINY], incomplete)]


def flag_type(name: str, field: FieldInfo) -> click.ParamType:
    """Return the type of the flag for a field of `Settings` that is no switch."""
    if name in KNOWN_NAMES:
        return Word(list(KNOWN_NAMES[name]))
    if name == "model":
        return ModelName()
    match list(_alternatives(field.annotation, list(field.metadata))):
        case [(kind, _)] if get_origin(kind) is Literal:
            return Word(list(get_args(kind)))
        case [(kind, rules)] if kind is int:
            return IntegerField(field, rules)
        case [(kind, rules)] if kind is float:
            return FloatField(field, rules)
        case [(kind, _)] if kind is Path:
            return click.Path(path_type=Path)
        case [(kind, rules), (other, _)] if kind is int and get_origin(other) is Literal:
            return IntegerOrWord(field, rules, get_args(other))
        case [(kind, [])] if kind is str:
            return click.STRING
    return FieldType(field)


def matching(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the words that start like this, as completions."""
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _alternatives(kind: Any, rules: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield what a field's annotation allows, each with its rules; None is left out."""
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        yield from _alternatives(kind, rules + _flat(more))
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            if member is not NoneType:
                yield from _alternatives(member, rules)
    else:
        yield kind, rules


def _flat(rules: list[Any]) -> list[Any]:
    return [one for rule in rules for one in (rule.metadata if isinstance(rule, FieldInfo) else [rule])]


def _range(rules: list[Any]) -> dict[str, Any]:
    """Return the arguments of click's ranges for the bounds among some rules."""
    bounds: dict[str, Any] = {}
    for rule in rules:
        match rule:
            case annotated_types.Ge(ge):
                bounds |= {"min": ge}
            case annotated_types.Gt(gt):
                bounds |= {"min": gt, "min_open": True}
            case annotated_types.Le(le):
                bounds |= {"max": le}
            case annotated_types.Lt(lt):
                bounds |= {"max": lt, "max_open": True}
    return bounds
