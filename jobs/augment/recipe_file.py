"""Reading recipes: TOML to `Recipe`, and one clear line for what is wrong with one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from wanbatch.errors import UserError
from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.recipe import Blend, Columns, Hard, Objects, Range, Recipe, Text, shipped, shipped_text
from wanbatch.manifests.columns import MAPS, SETTINGS
from wanbatch.manifests.reading.row_model import parse_row
from wanbatch.suggestions import did_you_mean

DECIDED = ("prompt", "creativity", "seed", "num_images")
"""Settings of rows that the recipe itself decides."""

_PARTS: dict[str, type[BaseModel]] = {
    "columns": Columns,
    "blend": Blend,
    "hard": Hard,
    "objects": Objects,
    "checks": Checks,
}
_ITEMS: dict[str, type[BaseModel]] = {"template": Text, "synonyms": Text, "choices": Text, "bands": Band}
_RULES = {
    "split": "the name of a split, or a list of names",
    "classes": "a list of classes",
    "held_out": "the path of a dataset, or a list of paths",
    "keep": "a list of columns",
    "template": 'text like "a {label}", or a list of texts, each with a weight perhaps: { text = "...", weight = 2 }',
    "creativity": "a number above 0 and up to 1, a list of such numbers, or a range like { from = 0.3, to = 0.6 }",
    "variants": "a whole number from 1 to 1000",
    "per_source": "a whole number from 1 to 1000",
    "fill": 'a whole number above 0, or "largest"',
    "seed": "a whole number from 0 to 2**63 - 1",
    "synonyms": 'a table of values, each with a list of texts, like disc = ["disc", "round plate"]',
    "choices": 'a table of names, each with a list of texts, like place = ["indoors", "outdoors"]',
    "share": "a number above 0 and up to 1",
    "parents": "a whole number from 2 to 8, or a list of such numbers",
    "weights": "drawn or equal",
    "hardest": "high or low",
    "around": "a number above 0 and up to 1, a list of such numbers, or a range like { from = 0.5, to = 0.8 }",
    "inside": "a number from 0 to 1",
    "margin": "a whole number of pixels from 0 to 4096",
    "feather": "a whole number of pixels from 0 to 4096",
    "softness": "a number from 0 to 1",
    "keep_pixels": "true or false",
    "objects": 'a table, like [objects] with keep = "boxes" below it',
    "columns": 'a table, like [columns] with label = "breed" below it',
    "blend": "a table, like [blend] with share = 0.3 below it",
    "hard": 'a table, like [hard] with column = "loss" below it',
    "checks": "a table, like [checks] with blur = 0.1 below it",
    "near_copies": "drop, refuse or keep",
    "annotations_below": "a number from 0 to 1",
    "duplicates": "none, exact or near",
    "black": "a number from 0 to 255",
    "flat": "a number from 0 to 255",
    "blur": "a number from 0 to 1",
    "tolerance": "a number above 0",
    "top_k": "a whole number from 1",
    "weight": "a number above 0",
}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: There is none, or something in it is wrong; one line, with what to do.
    """
    values = _table(path)
    if (base := values.get("base")) is not None:
        if base not in shipped():
            known = ", ".join(shipped())
            raise UserError(f"{path}: base is {base!r}: must be one of {known}{did_you_mean(str(base), shipped())}")
        values = {**_under(tomllib.loads(shipped_text(base)), values), **values}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_words(error, values)}") from error
    _check_settings(path, recipe)
    return recipe


def _under(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a base holds: not its way to count rows, or its creativity, where the recipe has one of its own."""
    counts = ("fill", "variants")
    replaced = set(counts) if any(name in values for name in counts) else set()
    objects = values.get("objects")
    if isinstance(objects, dict):
        replaced |= {"blend", *(["creativity"] if "around" in objects else [])}
    return {name: one for name, one in base.items() if name not in replaced}


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: is not TOML: {error}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder: give a recipe, a TOML file that names it as dataset") from error
    except FileNotFoundError as error:
        named = path.name.removesuffix(".toml")
        hint = f'write a recipe with base = "{named}" in it' if named in shipped() else "check the path"
        raise UserError(f"{path}: there is no such recipe: {hint}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _words(error: ValidationError, values: Mapping[str, Any]) -> str:
    """The most telling error as a sentence: which key, and what to do."""
    errors = [one for one in error.errors(include_url=False) if not _is_of_around(one, values)]
    first = next((one for one in errors if one["type"] == "value_error"), None) or next(
        (one for one in errors if one["type"] == "extra_forbidden"), errors[0]
    )
    where = _keys(first, values)
    name = ".".join(str(part) for part in where if isinstance(part, str))
    if first["type"] == "value_error":
        return f"{name} {first['ctx']['error']}".strip()
    if first["type"] == "extra_forbidden":
        known = _known(where)
        unknown = str(where[-1])
        table = f" in [{'.'.join(str(part) for part in where[:-1])}]" if len(where) > 1 else ""
        return f"unknown key {unknown!r}{table}; known: {', '.join(known)}{did_you_mean(unknown, known)}"
    if first["type"] == "missing":
        rule = _RULES.get(str(where[-1]))
        return f"has no {name}: give it" + (f" {rule}" if rule else ', like dataset = "pictures"')
    if where[:2] == ["objects", "keep"]:
        return f"objects.keep is {_given(values, where)!r}: must be boxes or masks"
    rule = next(
        (_RULES[str(part)] for part in reversed(where) if str(part) in _RULES),
        "text that is not empty and has no NUL",
    )
    return f"{name} is {_given(values, where)!r}: must be {rule}"


def _is_of_around(error: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether an error about `creativity` is one about `objects.around`, which stands for it and has the same."""
    return error["loc"][:1] == ("creativity",) and error["type"] != "missing" and "creativity" not in values


def _keys(error: Mapping[str, Any], values: Any) -> list[object]:
    """The keys that an error is about, without the names of types that pydantic puts between them."""
    keys: list[object] = []
    for part in error["loc"]:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            continue
        keys.append(part)
    return [*keys, error["loc"][-1]] if error["type"] == "missing" else keys


def _known(where: Sequence[object]) -> list[str]:
    """The keys that a table takes."""
    model: type[BaseModel] = Recipe
    for part in where[:-1]:
        if isinstance(part, str):
            model = Range if part == "creativity" else _PARTS.get(part) or _ITEMS.get(part) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _given(values: Any, where: Sequence[object]) -> Any:
    for part in where:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
    return values


def _check_settings(path: Path, recipe: Recipe) -> None:
    """Raises UserError for settings that rows cannot have."""
    known = [name for name in SETTINGS if name not in DECIDED]
    for name in recipe.settings:
        if name in DECIDED:
            said = "the recipe decides it for each row" if name != "num_images" else "write variants = N"
            raise UserError(f"{path}: unknown key {name!r} in [settings]: {said}")
        if name in (*MAPS, "keep_pixels", "keep_pixels_up_to", "map_softness"):
            raise UserError(
                f"{path}: {name} in [settings] would be the same for all pictures: write [objects] for it"
            )
        if name not in known:
            words = f"known: {', '.join(known)}{did_you_mean(name, known)}"
            raise UserError(f"{path}: unknown key {name!r} in [settings]; {words}")
    _, wrong = parse_row({"prompt": "", **recipe.settings})
    if wrong:
        raise UserError(f"{path}: [settings] {wrong[0]}")
