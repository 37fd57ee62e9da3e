"""Which images of a plan are a unit, and in which order units come."""

from __future__ import annotations

import numpy as np
import pytest
from job_making import picture, write_jsonl

from wanbatch.jobs.planning.preparation import prepare


@pytest.fixture
def planned(settings, tmp_path):
    """Plans rows in tmp_path; returns the plan."""

    def plan(*rows: dict):
        return prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings(), weights=False)[0]

    return plan


def test_images_of_one_source_stand_together(planned, tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png", 32, 32)
    plan = planned(*({"id": f"r{i}", "image": f"{'abcd'[i % 4]}.png"} for i in range(32)))
    rows = plan.manifest.rows["sources"].to_pylist()
    for unit in plan.units(8):
        assert len({rows[place][0]["path"] for place in unit}) == 1


def test_images_of_one_prompt_stand_together(planned):
    plan = planned(*({"id": f"r{i}", "prompt": f"prompt {i % 4}"} for i in range(32)))
    for unit in plan.units(8):
        assert len({plan.images["prompt"][int(place)].as_py() for place in unit}) == 1


def test_units_leave_out_what_is_done(planned):
    plan = planned(*({"id": f"r{i}", "prompt": "x"} for i in range(10)))
    done = {f"r{i}" for i in range(0, 10, 2)}
    places = np.concatenate(plan.units(3, skip=done)).tolist()
    assert sorted(plan.ids()[place] for place in places) == ["r1", "r3", "r5", "r7", "r9"]
    assert plan.units(3, skip=set(plan.ids())) == []


def test_units_are_the_same_each_time_and_those_of_a_class_follow_one_another(planned):
    rows = [{"id": f"r{i}", "prompt": f"p{i % 3}", "guidance": 1.0 + i % 2} for i in range(40)]
    first, second = (planned(*rows).units(4) for _ in range(2))
    assert [unit.tolist() for unit in first] == [unit.tolist() for unit in second]
    guided = [bool(unit[0] % 2) for unit in first]
    assert guided == [False] * 5 + [True] * 5


def test_prompts_of_similar_length_stand_together(planned, monkeypatch):
    lengths = [100, 400, 1600]
    plan = planned(*({"id": f"r{i}", "prompt": "x" * (lengths[i % 3] + i % 4)} for i in range(48)))
    assert [{int(place) % 3 for place in unit} for unit in plan.units(8)] == [{0}, {0}, {1}, {1}, {2}, {2}]
    monkeypatch.setattr("wanbatch.jobs.planning.unit_sizes.WINDOW_IMAGES", 12)
    units = plan.units(8, workers=2)
    assert [sorted({int(place) // 24 for place in unit}) for unit in units] == [[0]] * 3 + [[1]] * 3
    assert [{int(place) % 3 for place in unit} for unit in units] == [{0}, {1}, {2}] * 2


def test_a_negative_prompt_counts_where_guidance_uses_it(planned):
    long = {"negative_prompt": "y" * 900}
    rows = [{"id": f"r{i}", "prompt": "x", "guidance": 4.0, **(long if i % 2 else {})} for i in range(8)]
    rows += [{**row, "id": f"plain-{row['id']}", "guidance": 1.0} for row in rows]
    units = [sorted(unit.tolist()) for unit in planned(*rows).units(4)]
    assert units == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
