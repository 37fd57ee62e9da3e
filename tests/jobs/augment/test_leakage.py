"""Nothing of one split gets into another; and these tests notice when the guard is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from augment_making import folder_by_class, original, recipe_of
from command_line import invoke, refused

from wanbatch.errors import UserError
from wanbatch.jobs.augment import drawing
from wanbatch.jobs.augment.drawing import draw
from wanbatch.jobs.augment.leakage import groups_in_several_splits, leaks_between, require_no_leak
from wanbatch.jobs.augment.near_copies import Fingerprint

SPLITS = ("train", "val", "test")
THOUSAND = [original(number, f"class-{number % 10}", SPLITS[number % 3]) for number in range(1000)]
ASKED = {"variants": 2, "blend": {"share": 0.5, "parents": [2, 3]}}


def leaking(children, splits):
    """The rows whose parents are of several splits, or of another split than those: told without the guard."""
    return [child for child in children if len({p.split for p, _ in child.parents} | {*splits}) > len(splits)]


def test_no_row_of_a_thousand_sources_leaves_its_parents_split():
    recipe = recipe_of(split=[*SPLITS], **ASKED)
    children = draw(THOUSAND, recipe).children
    assert len(children) == 4000
    assert sum(len(child.parents) > 1 for child in children) > 1500
    require_no_leak(children, SPLITS)
    for name in SPLITS:
        assert not leaking([child for child in children if child.first.split == name], [name])


def test_only_the_split_that_is_asked_for_is_augmented():
    train = [one for one in THOUSAND if one.split == "train"]
    children = draw(train, recipe_of(**ASKED)).children
    require_no_leak(children, ["train"])
    with pytest.raises(UserError, match="would be made from split train, which is held out"):
        require_no_leak(children, ["val"])


def test_a_drawer_that_forgets_splits_is_stopped_by_the_guard(monkeypatch):
    def without_splits(originals):
        whole = {}
        for one in sorted(originals, key=lambda each: each.sha256):
            whole.setdefault((None, one.label), []).append(one)
        return whole

    monkeypatch.setattr(drawing, "pools_of", without_splits)
    children = drawing.draw(THOUSAND, recipe_of(split=[*SPLITS], **ASKED)).children
    assert len([child for child in children if len({p.split for p, _ in child.parents}) > 1]) > 500
    with pytest.raises(UserError, match=r"would be a blend across splits \((test|train) and (train|val)\)"):
        require_no_leak(children, SPLITS)


def test_a_drawer_that_forgets_classes_is_stopped_too(monkeypatch):
    monkeypatch.setattr(drawing, "pools_of", lambda originals: {("train", "all"): list(originals)})
    train = [one for one in THOUSAND if one.split == "train"]
    children = drawing.draw(train, recipe_of(**ASKED)).children
    with pytest.raises(UserError, match="would be a blend of several classes"):
        require_no_leak(children, ["train"])


def test_the_command_has_the_guard_between_what_is_drawn_and_what_is_written(tmp_path, monkeypatch):
    folder_by_class(tmp_path / "set", {"train/disc": 4, "val/disc": 4, "test/disc": 1})
    Path("recipe.toml").write_text(
        'dataset = "set"\nsplit = ["train", "val"]\ntemplate = "x"\ncreativity = 0.5\nvariants = 2\n'
        "[blend]\nshare = 1\nparents = 3\n"
    )
    assert invoke("augment", "recipe.toml", "--out", "good.jsonl").exit_code == 0
    monkeypatch.setattr(drawing, "pools_of", lambda originals: {("train", "disc"): list(originals)})
    (line,) = refused(invoke("augment", "recipe.toml", "--out", "bad.jsonl"))
    assert "would be a blend across splits" in line
    assert not Path("bad.jsonl").exists()


def near(one, split, bits=2, colours=3):
    """A picture of another split like one: so many bits of its hash differ, and its colours by so much."""
    assert one.fingerprint is not None
    hashed = one.fingerprint.hash ^ ((1 << bits) - 1)
    changed = bytes((value + colours if value < 128 else value - colours) % 256 for value in one.fingerprint.colours)
    return replace(
        one, split=split, sha256="0" * 64, name=f"{split}/copy.png", fingerprint=Fingerprint(hashed, changed)
    )


def test_near_copies_and_copies_across_splits_are_found_among_a_thousand():
    train = [one for one in THOUSAND if one.split == "train"]
    held_out = [one for one in THOUSAND if one.split != "train"]
    assert leaks_between(train, held_out) == []
    copy = replace(train[7], split="test", name="test/exact.png")
    found = leaks_between(train, [*held_out, copy, near(train[3], "val"), near(train[4], "val", bits=20, colours=11)])
    assert [str(leak) for leak in found] == [
        "train/class-9/9.png looks like val/copy.png of split val",
        "train/class-1/21.png is a copy of test/exact.png of split test",
    ]
    twins = [original(0), near(original(0), "val")]
    assert len(leaks_between(twins, [])) == 2
    assert leaks_between([original(0), near(original(0), "train")], []) == []


def test_a_small_object_of_another_kind_on_the_same_ground_is_no_copy():
    one = original(0)
    assert one.fingerprint is not None
    changed = bytearray(one.fingerprint.colours)
    for index in range(12):  # four of 64 fields
        changed[index] = (changed[index] + 60) % 256
    other = replace(near(one, "val"), fingerprint=Fingerprint(one.fingerprint.hash, bytes(changed)))
    assert leaks_between([one], [other]) == []


def test_the_same_colours_with_another_hash_are_a_copy():
    smooth = original(0)  # of which a hash says little
    assert len(leaks_between([smooth], [near(smooth, "val", bits=30)])) == 1


def test_the_same_hash_with_other_colours_is_no_copy():
    one = original(0)
    assert one.fingerprint is not None
    other = replace(near(one, "val"), fingerprint=Fingerprint(one.fingerprint.hash, bytes(192)))
    assert leaks_between([one], [other]) == []


def test_groups_in_several_splits_are_found():
    grouped = [replace(one, group=f"patient-{number}") for number, one in enumerate(THOUSAND[:5])]
    assert groups_in_several_splits(grouped) == []
    assert groups_in_several_splits([*grouped, replace(grouped[0], split="test")]) == [
        ("patient-0", ["test", "train"])
    ]
