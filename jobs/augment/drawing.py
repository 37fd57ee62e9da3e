"""Which rows a recipe makes of a dataset. Pure, and the same whatever order the pictures come in.

All that is drawn for a row follows from the recipe's seed, the digests of its parents and its number among the rows
of its first parent, so that a picture that is added to the dataset leaves the rows of others as they are. Where it
could take the place of others, as a partner of a blend or in a class that is filled, the rows that an earlier
manifest has come first: `draw` is told of them as `taken`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.draws import Key, Partners, choice, integer, shares, uniform
from wanbatch.jobs.augment.object_words import object_words
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.recipe import MOST_OF_A_SOURCE, Range, Recipe, Text
from wanbatch.jobs.augment.templates import render

Pool = tuple[str | None, str | None]
"""A split and a class in it."""

Taken = Mapping[Pool, Collection[tuple[str, int]]]
"""Rows that there are already: of each split and class, the digest of the first parent and the number of each."""


@dataclass(frozen=True, slots=True)
class Child:
    """A row: what is made from one original or several.

    Attributes:
        id: follows from the digests of the parents and from `number`.
        parents: with their shares; the first is the one that the row counts for.
        number: which row of its first parent, from 0.
    """

    id: str
    parents: tuple[tuple[Original, float], ...]
    number: int
    creativity: float
    prompt: str
    seed: int

    @property
    def first(self) -> Original:
        """The parent that the row counts for."""
        return self.parents[0][0]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of a recipe, ordered by split, class, first parent and number, and what it could not do."""

    children: tuple[Child, ...]
    warnings: tuple[str, ...] = field(default=())


def pools_of(originals: Sequence[Original]) -> dict[Pool, list[Original]]:
    """The originals by split and class, those of each pool in the order of their digests."""
    found: defaultdict[Pool, list[Original]] = defaultdict(list)
    for original in sorted(originals, key=lambda one: one.sha256):
        found[original.split, original.label].append(original)
    return dict(sorted(found.items(), key=lambda item: [name or "" for name in item[0]]))


def draw(
    originals: Sequence[Original], recipe: Recipe, taken: Taken | None = None, told: Mapping[str, Any] | None = None
) -> Drawn:
    """The rows that a recipe makes, without those that there are already.

    Args:
        originals: of the splits that are augmented, no two of one class with the same digest.
        recipe: checked; its templates name columns that the originals have.
        taken: rows that there are already; they count for `fill`.
        told: what templates may name besides columns, which come first.
    Raises:
        UserError: Classes are to be filled and there are none, a score is missing, a prompt cannot be filled in.
    """
    pools = pools_of(originals)
    largest = max((len(its) for its in pools.values()), default=0)
    children: list[Child] = []
    warnings: list[str] = []
    for pool, its in pools.items():
        drawer = _Drawer(its, recipe, told or {})
        wanted = None
        if recipe.fill is not None:
            if pool[1] is None:
                raise UserError(
                    f"{its[0].name}: has no class, and fill = {recipe.fill!r} is about classes: name the column of "
                    'the class with columns = { label = "..." }, or write variants = N'
                )
            wanted = max(0, (largest if recipe.fill == "largest" else recipe.fill) - len(its))
        there = (taken or {}).get(pool, frozenset())
        made = drawer.rows(_hard(its, recipe), wanted, there)
        if wanted is not None and len(made) + len(there) < wanted:
            warnings.append(
                f"class {pool[1]!r} gets {number_of(len(made), 'rows')} of the {wanted} that it lacks: raise "
                f"per_source above {drawer.most}, or add pictures"
            )
        children += made
    return Drawn(tuple(children), tuple(warnings))


def _hard(pool: Sequence[Original], recipe: Recipe) -> list[Original]:
    """The originals of a pool that rows are made of."""
    if recipe.hard is None:
        return list(pool)
    column = recipe.hard.column
    for one in pool:
        score = one.columns.get(column)
        if isinstance(score, bool) or not isinstance(score, int | float) or score != score:
            raise UserError(f"{one.name}: its {column!r} is {score!r}: hard needs a number for each picture")
    sign = -1 if recipe.hard.hardest == "high" else 1
    ordered = sorted(pool, key=lambda one: (sign * one.columns[column], one.sha256))
    return ordered[: -int(-len(pool) * recipe.hard.share // 1)]


class _Drawer:
    """Draws the rows of one pool."""

    def __init__(self, pool: Sequence[Original], recipe: Recipe, told: Mapping[str, Any]):
        self._recipe, self._told = recipe, told
        self._by_digest = {one.sha256: one for one in pool}
        self._partners = Partners(list(self._by_digest))
        many = 1 if isinstance(recipe.creativity, Range) else len(recipe.creativity)
        asked = MOST_OF_A_SOURCE if recipe.fill is not None else (recipe.variants or 1) * many
        self.most = min(asked, recipe.per_source or MOST_OF_A_SOURCE)

    def rows(self, bases: Sequence[Original], wanted: int | None, taken: Collection[tuple[str, int]]) -> list[Child]:
        """The rows of some originals: one of each, then a second one of each, and so on.

        Args:
            bases: of which rows are made.
            wanted: how many rows there are to be with those that are taken; None: as many as the recipe asks of each.
            taken: digest and number of the rows that there are already.
        """
        order = sorted(bases, key=lambda one: uniform([self._recipe.seed, "order", one.sha256]))
        left = self.most * len(bases) if wanted is None else max(0, wanted - len(taken))
        free = ((one, number) for number in range(self.most) for one in order if (one.sha256, number) not in taken)
        made = [self._child(one, number) for one, number in islice(free, left)]
        return sorted(made, key=lambda child: (child.first.sha256, child.number))

    def _child(self, base: Original, number: int) -> Child:
        recipe = self._recipe
        key: Key = [recipe.seed, base.sha256, base.label or "", number]
        parents = self._parents(base, key)
        strengths = recipe.creativity
        if len(parents) > 1 and recipe.blend is not None and recipe.blend.creativity is not None:
            strengths = recipe.blend.creativity
        all_of_it: Key = [*key, *(one.sha256 for one, _ in parents[1:])]
        return Child(
            id=_id(base, parents, number),
            parents=parents,
            number=number,
            creativity=_strength(strengths, recipe.seed, base, number),
            prompt=self._prompt(base, all_of_it),
            seed=integer([*all_of_it, "seed"], 2**63),
        )

    def _parents(self, base: Original, key: Key) -> tuple[tuple[Original, float], ...]:
        blend = self._recipe.blend
        if blend is None or uniform([*key, "blend"]) >= blend.share:
            return ((base, 1.0),)
        count = blend.parents[integer([*key, "parents"], len(blend.parents))]
        partners = self._partners.of(base.sha256, count - 1, key)
        if not partners:
            return ((base, 1.0),)
        count = len(partners) + 1
        weights = (1.0,) * count if blend.weights == "equal" else shares(count, [*key, "weights"])
        parents = (base, *(self._by_digest[one] for one in partners))
        return tuple(zip(parents, weights, strict=True))

    def _prompt(self, base: Original, key: Key) -> str:
        recipe = self._recipe
        text = _drawn(recipe.template, [*key, "template"])
        values: dict[str, Any] = {**self._told, **object_words(base), **base.columns}
        for name, value in values.items():
            if isinstance(value, str) and value in recipe.synonyms:
                values[name] = _drawn(recipe.synonyms[value], [*key, "synonym", value])
        for name, texts in recipe.choices.items():
            values[name] = _drawn(texts, [*key, "choice", name])
        return render(text, values, base.name)


def _drawn(texts: Sequence[Text], key: Key) -> str:
    return choice([(one.text, one.weight) for one in texts], key)


def _strength(strengths: tuple[float, ...] | Range, seed: int, base: Original, number: int) -> float:
    """Of a list, the rows of a source take one after the other, each source from another one on."""
    if isinstance(strengths, Range):
        drawn = uniform([seed, "creativity", base.sha256, number])
        return round(strengths.first + (strengths.last - strengths.first) * drawn, 4)
    start = integer([seed, "creativity", base.sha256], len(strengths))
    return strengths[(start + number) % len(strengths)]


def _id(base: Original, parents: Sequence[tuple[Original, float]], number: int) -> str:
    told = "\0".join([base.split or "", base.label or "", *(one.sha256 for one, _ in parents)])
    word = re.sub(r"[^A-Za-z0-9_]+", "-", base.label or "row").strip("-")[:60] or "row"
    return f"{word}-{hashlib.sha256(told.encode(errors='replace')).hexdigest()[:12]}-{number}"
