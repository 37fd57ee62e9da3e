"""Blend groups: rows that become one, and what is wrong with them."""

import pytest

from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source

GOOD = {"prompt": "a red heart"}


class TestBlendGroups:
    def test_members_anywhere_become_one_row(self, jsonl):
        manifest = read_manifest(
            jsonl(
                {"blend_group": "mix", "image": "a.png", "prompt": "both", "blend_weight": 3, "label": 1},
                {"prompt": "alone", "label": 2},
                {"blend_group": "other", "image": "c.png", "label": 3},
                {"blend_group": "mix", "image": "b.png", "creativity": 0.25, "label": 4},
                {"blend_group": "other", "image": "d.png", "prompt": None, "label": 5},
            )
        )
        mix, alone, other = manifest.iter_rows()
        assert (mix.id, mix.number, mix.prompt, mix.creativity) == ("mix", 0, "both", 0.25)
        assert mix.sources == (Source("a.png", 0.75), Source("b.png", 0.25))
        assert (alone.id, alone.number) == ("00000001", 1)
        assert (other.id, other.number, [s.weight for s in other.sources]) == ("other", 2, [0.5, 0.5])
        assert other.location.endswith("shop.jsonl:3")
        assert manifest.passthrough["label"].to_pylist() == [1, 2, 3]
        assert manifest.manifest_rows == 5

    def test_one_member(self, jsonl, problems):
        (found,) = problems(jsonl(GOOD, {"blend_group": "mix", "image": "a.png"}))
        assert found.startswith("shop.jsonl:2: blend group 'mix' has only this row: it needs two or more")

    @pytest.mark.parametrize(
        ("setting", "one", "other"),
        [("prompt", "cat", "dog"), ("seed", 1, 2), ("loras", [{"name": "a"}], [{"name": "b"}]), ("num_images", 2, 3)],
    )
    def test_clashing_settings_name_both_places(self, jsonl, problems, setting, one, other):
        member = {"blend_group": "mix", "image": "a.png"}
        (found,) = problems(jsonl({**member, setting: one}, member, {**member, setting: other}))
        assert found.startswith(f"shop.jsonl:3: blend group 'mix' has clashing values of {setting}: ")
        assert "shop.jsonl:1; give it once" in found

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"blend_weight": 0}, "blend_weight is 0"),
            ({"steps": "many"}, "steps is 'many'"),
            ({"images": ["b.png", "c.png"], "image": None}, "with 2 images"),
            ({"image": "/etc/b.png"}, "image '/etc/b.png'"),
        ],
    )
    def test_a_member_with_another_fault_is_checked_against_its_group(self, jsonl, problems, wrong, said):
        member = {"blend_group": "mix", "image": "a.png"}
        bad = {**member, "prompt": "dog", "seed": 1, **wrong}
        for rows, line in (
            ([{**member, "prompt": "cat", "steps": 4}, bad], 2),
            ([bad, {**member, "prompt": "cat"}], 1),
        ):
            found = problems(jsonl(*rows))
            assert len(found) == 2, found
            assert any(one.startswith(f"shop.jsonl:{line}: ") and said in one for one in found)
            (clash,) = (one for one in found if "clashing values of prompt" in one)
            assert clash.startswith("shop.jsonl:2: ")

    def test_members_that_all_have_faults_are_checked_against_each_other(self, jsonl, problems):
        rows = [{"blend_group": "mix", "image": "a.png", "blend_weight": 0, "seed": seed} for seed in (1, 2, 1, 3)]
        found = problems(jsonl(*rows))
        assert sum("blend_weight is 0" in one for one in found) == 4
        clashes = [one for one in found if "clashing values of seed" in one]
        assert [one.split(": ")[0] for one in clashes] == ["shop.jsonl:2", "shop.jsonl:4"]
        assert len(found) == 6

    @pytest.mark.parametrize("first", [True, False])
    def test_the_id_of_a_group_whose_members_all_have_faults_is_compared_with_those_of_rows(
        self, jsonl, problems, first
    ):
        members = [{"blend_group": "mix", "image": "a.png", "blend_weight": weight} for weight in (0, -1)]
        row = {**GOOD, "id": "mix"}
        found = problems(jsonl(*([row, *members] if first else [*members, row])))
        assert len(found) == 3, found
        later, earlier = (2, 1) if first else (3, 1)
        assert f"shop.jsonl:{later}: id 'mix' is already at shop.jsonl:{earlier}: give each row its own" in found

    @pytest.mark.parametrize(
        ("given", "clashes"),
        [({}, True), ({"num_images": 1}, True), ({"num_images": 3}, False), ({"num_images": 0}, False)],
    )
    def test_how_many_images_such_a_group_has_counts_as_far_as_it_is_known(self, jsonl, problems, given, clashes):
        """`mix` with three images makes `mix-0`, `mix-1` and `mix-2`; none of several of `mix-1` is called so."""
        members = [{"blend_group": "mix-1", "image": "a.png", "blend_weight": 0, **given} for _ in range(2)]
        found = problems(jsonl(*members, {**GOOD, "id": "mix", "num_images": 3}))
        assert [one for one in found if "is also image" in one] == [
            "shop.jsonl:1: id 'mix-1' is also image 1 of 'mix' (num_images 3): rename one"
        ] * clashes

    def test_the_images_of_such_a_group_are_compared_with_rows(self, jsonl, problems):
        members = [{"blend_group": "mix", "image": "a.png", "blend_weight": 0, "num_images": 2} for _ in range(2)]
        found = problems(jsonl(*members, {**GOOD, "id": "mix-1"}))
        assert "shop.jsonl:3: id 'mix-1' is also image 1 of 'mix' (num_images 2): rename one" in found

    def test_a_group_of_unknown_name_is_compared_with_none(self, jsonl, problems):
        rows = [{"blend_group": ["mix"], "image": "a.png", "seed": seed} for seed in (1, 2)]
        assert not [one for one in problems(jsonl(*rows)) if "clashing" in one]

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            ({"blend_weight": 0}, "blend_weight is 0: must be a number above 0"),
            ({"image": None}, "with 0 images: each of its rows needs one"),
            ({"image": None, "images": ["a.png", "b.png"]}, "with 2 images: each of its rows needs one"),
            ({"id": "mine"}, "has an id and a blend_group"),
            ({"blend_weights": [1]}, "has both blend_group and blend_weights"),
        ],
    )
    def test_a_bad_member_is_the_only_problem(self, jsonl, problems, extra, said):
        member = {"blend_group": "mix", "image": "a.png"}
        (found,) = problems(jsonl(member, {**member, **extra}))
        assert found.startswith("shop.jsonl:2: ")
        assert said in found

    def test_a_group_cannot_share_its_name_with_a_row(self, jsonl, problems):
        member = {"blend_group": "mix", "image": "a.png"}
        (found,) = problems(jsonl(member, member, {**GOOD, "id": "mix"}))
        assert found.startswith("shop.jsonl:3: id 'mix' is already at")


def test_a_group_keeps_what_any_member_says_of_it(jsonl):
    """Other columns of a blend group: the first value that a member gives."""
    manifest = read_manifest(
        jsonl(
            {"blend_group": "mix", "image": "a.png", "label": None, "tags": ["first"]},
            {"prompt": "alone", "label": 7},
            {"blend_group": "mix", "image": "b.png", "label": 3, "tags": ["second"]},
            {"blend_group": "mix", "image": "c.png", "label": 4, "shop": "x"},
        )
    )
    assert manifest.passthrough.to_pylist() == [
        {"label": 3, "tags": ["first"], "shop": "x"},
        {"label": 7, "tags": None, "shop": None},
    ]
