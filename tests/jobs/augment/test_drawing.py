"""Rows that a recipe makes: how many, of what, and that they follow from their sources alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from augment_making import original, recipe_of

from wanbatch.errors import UserError
from wanbatch.jobs.augment.drawing import draw, pools_of
from wanbatch.jobs.augment.draws import shares

MANY = [original(number, label) for number, label in enumerate(["disc"] * 9 + ["box"] * 4 + ["ring"])]
BLENDS = {"blend": {"share": 0.5, "parents": [2, 3]}}


def told(children):
    return {child.id: (child.creativity, child.prompt, child.seed, child.parents) for child in children}


def test_fill_brings_each_class_to_its_number_with_its_originals():
    drawn = draw(MANY, recipe_of(fill=12))
    assert Counter(child.first.label for child in drawn.children) == {"disc": 3, "box": 8, "ring": 11}
    largest = draw(MANY, recipe_of(fill="largest"))
    assert Counter(child.first.label for child in largest.children) == {"box": 5, "ring": 8}
    assert {label: len(its) for (_, label), its in pools_of(MANY).items()} == {"box": 4, "disc": 9, "ring": 1}


def test_rows_of_a_class_that_is_filled_are_spread_over_its_sources_and_strengths():
    drawn = draw([original(number) for number in range(40)], recipe_of(fill=100)).children
    by_source = Counter(child.first.id for child in drawn)
    assert set(by_source.values()) == {1, 2}
    by_strength = Counter(child.creativity for child in drawn)
    assert abs(by_strength[0.3] - by_strength[0.6]) <= 20


def test_sweeps_give_every_strength_to_every_source():
    children = draw(MANY, recipe_of(creativity=[0.2, 0.4, 0.6], variants=2)).children
    assert len(children) == 6 * len(MANY)
    each = Counter((child.first.id, child.creativity) for child in children)
    assert set(each.values()) == {2}
    assert len({child.seed for child in children}) == len(children)


def test_a_range_is_drawn_from_and_at_most_so_many_are_made_of_a_source():
    asked = recipe_of(creativity={"from": 0.2, "to": 0.4}, variants=50, per_source=20)
    drawn = [child.creativity for child in draw(MANY, asked).children]
    assert len(drawn) == 20 * len(MANY)
    assert 0.2 <= min(drawn) < 0.22
    assert 0.38 < max(drawn) <= 0.4


def test_per_source_that_leaves_a_class_short_is_said():
    drawn = draw(MANY, recipe_of(fill=12, per_source=2))
    assert Counter(child.first.label for child in drawn.children) == {"disc": 3, "box": 8, "ring": 2}
    assert drawn.warnings == (
        "class 'ring' gets 2 rows of the 11 that it lacks: raise per_source above 2, or add pictures",
    )


def test_the_order_of_the_pictures_plays_no_part():
    mixed = list(MANY)
    random.Random(3).shuffle(mixed)
    for changes in ({"fill": 20, **BLENDS}, {"variants": 3, **BLENDS}):
        assert draw(MANY, recipe_of(**changes)).children == draw(mixed, recipe_of(**changes)).children


def test_a_grown_dataset_keeps_every_row_of_a_sweep_and_adds_those_of_the_new_source():
    grown = [*MANY, original(100), original(101, "box")]
    before, after = (told(draw(its, recipe_of(variants=3)).children) for its in (MANY, grown))
    assert before.items() <= after.items()
    added = [value[3][0][0].id for name, value in after.items() if name not in before]
    assert Counter(added) == {"100": 6, "101": 6}


def taken_by_children(children):
    taken = {}
    for child in children:
        taken.setdefault((child.first.split, child.first.label), set()).add((child.first.sha256, child.number))
    return taken


@pytest.mark.parametrize("changes", [{"fill": 40, **BLENDS}, {"variants": 4, **BLENDS}, {"fill": "largest"}])
def test_rows_that_there_are_stay_and_count_and_only_what_is_lacking_is_added(changes):
    grown = [*MANY, original(100), original(101, "box")]
    before = draw(MANY, recipe_of(**changes)).children
    added = draw(grown, recipe_of(**changes), taken_by_children(before)).children
    assert not {child.id for child in before} & {child.id for child in added}
    assert not {(c.first.sha256, c.number) for c in before} & {(c.first.sha256, c.number) for c in added}
    if changes.get("fill") == 40:
        assert added == ()  # the classes are full already, with one row more than they need by now
    elif "variants" in changes:
        assert Counter(child.first.id for child in added) == {"100": 8, "101": 8}
    else:
        assert Counter(child.first.label for child in added) == {"ring": 1}  # to ten discs


@pytest.mark.parametrize("changes", [{"fill": 40, **BLENDS}, {"variants": 4, **BLENDS}])
def test_with_blends_and_fill_no_row_changes_and_each_added_one_has_a_new_parent(changes):
    grown = [*MANY, original(100), original(101, "box")]
    before, after = (told(draw(its, recipe_of(**changes)).children) for its in (MANY, grown))
    shared = before.keys() & after.keys()
    assert len(shared) > len(before) / 2
    assert all(before[name] == after[name] for name in shared)
    for name in after.keys() - before.keys():
        assert {parent.id for parent, _ in after[name][3]} & {"100", "101"}, name


def test_blends_are_within_a_class_and_a_split_and_their_shares_add_up():
    both = [*MANY, *(original(200 + number, label, "val") for number, label in enumerate(["disc", "box"] * 4))]
    asked = recipe_of(split=["train", "val"], variants=20, **BLENDS)
    children = draw(both, asked).children
    sizes = Counter(len(child.parents) for child in children)
    assert sizes[2] > 100
    assert sizes[3] > 100
    assert 0.35 < (sizes[2] + sizes[3]) / len(children) < 0.6  # the lone ring has no partner
    for child in children:
        assert len({(parent.split, parent.label) for parent, _ in child.parents}) == 1
        assert len({parent.id for parent, _ in child.parents}) == len(child.parents)
        weights = [share for _, share in child.parents]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1, abs=0.03)
    first = Counter(parent.id for child in children for parent, _ in child.parents[1:] if child.first.label == "disc")
    assert max(first.values()) < 4 * min(first.values())


def test_equal_weights_and_a_strength_of_their_own():
    asked = recipe_of(variants=8, blend={"share": 1.0, "parents": 2, "weights": "equal", "creativity": 0.8})
    blends = [child for child in draw(MANY, asked).children if len(child.parents) > 1]
    assert blends
    assert {child.creativity for child in blends} == {0.8}
    assert {tuple(share for _, share in child.parents) for child in blends} == {(1.0, 1.0)}


def test_shares_are_uniform_over_all_that_add_up_to_one():
    drawn = [shares(2, ["a", number])[0] for number in range(4000)]
    assert abs(sum(drawn) / len(drawn) - 0.75) < 0.01  # the larger of two shares


def test_synonyms_choices_and_weights_are_drawn():
    asked = recipe_of(
        variants=100,
        template=[{"text": "a {label} {place}", "weight": 3}, "{{ label | upper }}"],
        synonyms={"disc": ["disc", {"text": "round plate", "weight": 3}]},
        choices={"place": ["indoors", "outdoors"]},
    )
    prompts = Counter(child.prompt for child in draw([original(0)], asked).children)
    assert set(prompts) == {
        *("a disc indoors", "a disc outdoors", "a round plate indoors", "a round plate outdoors"),
        *("DISC", "ROUND PLATE"),
    }
    plates = sum(count for prompt, count in prompts.items() if "plate" in prompt.lower())
    assert 0.65 < plates / 200 < 0.85
    assert 0.15 < (prompts["DISC"] + prompts["ROUND PLATE"]) / 200 < 0.35


def test_only_the_hardest_of_each_class_are_augmented():
    scored = [original(number, label, columns={"loss": number % 10}) for number, label in enumerate("aaaaaaaaaabbbb")]
    hard = draw(scored, recipe_of(variants=1, hard={"column": "loss", "share": 0.3})).children
    assert {(child.first.label, child.first.columns["loss"]) for child in hard} == {
        *(("a", 9), ("a", 8), ("a", 7)),
        *(("b", 3), ("b", 2)),
    }
    low = draw(scored, recipe_of(variants=1, hard={"column": "loss", "share": 0.1, "hardest": "low"})).children
    assert {child.first.columns["loss"] for child in low} == {0}
    with pytest.raises(UserError, match=r"^train/a/0.png: its 'loss' is None: hard needs a number for each picture$"):
        draw([original(0, "a")], recipe_of(hard={"column": "loss"}))


def test_fill_without_classes_is_refused():
    with pytest.raises(UserError, match="has no class, and fill = 5 is about classes"):
        draw([original(0, None)], recipe_of(fill=5, template="a thing"))


def test_the_digest_is_of_what_is_asked_and_not_of_where_the_dataset_is():
    assert recipe_of().digest == recipe_of(dataset="elsewhere", base=None).digest
    assert recipe_of().digest != recipe_of(seed=1).digest
