"""Which rows are measured, and with which step counts all rows can be made."""

from __future__ import annotations

import json

import pytest
from adapter_making import random_pairs, save_adapter

from wanbatch.errors import UserError
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.sample import draw_sample, possible_candidates
from wanbatch.jobs.tuning.tune import _search_space


def test_few_steps_are_not_tried_where_a_row_could_not_start(rows, settings):
    """A run would refuse such a row, or, without a creativity of its own, change it."""

    def possible(*others: dict) -> list[int]:
        rows.write_text("".join(json.dumps(row) + "\n" for row in [{"prompt": "a red heart"}, *others]))
        plan, _ = prepare(rows, settings(steps=30))
        is_possible = possible_candidates(plan)
        return [steps for steps in range(1, 30) if not is_possible(Candidate("unipc", steps))]

    low = {"image": "square.png", "creativity": 0.25}
    assert possible() == []
    assert possible(low) == list(range(1, 11))  # the last level is about 3 / (steps + 2) with shift 3
    assert possible({**low, "steps": 20}) == []
    assert possible({**low, "sigmas": [0.9, 0.2]}) == []
    assert possible({**low, "creativity": 0.0}) == []
    assert possible({"image": "square.png"}) == [1, 2, 3]  # the default creativity, 0.6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            [{"prompt": "x", "steps": 3}, {"image": "square.png", "creativity": 0}],
            "all 2 images have steps or sampler",
        ),
        (
            [{"id": "a", "image": "no.png"}, {"id": "b", "image": "nor.png"}],
            r"no row can be made; .*'[ab]', .* nor?\.png does",
        ),
    ],
)
def test_a_manifest_without_rows_to_measure(rows, settings, changed, message):
    rows.write_text("".join(json.dumps(row) + "\n" for row in changed))
    plan, _ = prepare(rows, settings())
    with pytest.raises(UserError, match=message):
        draw_sample(plan, 4, settings(seed=1))


def test_rows_with_adapters_are_named_where_all_have_one(rows, settings, model_folder, tmp_path):
    config = json.loads((model_folder / "transformer" / "config.json").read_text())
    file = save_adapter(tmp_path / "crayon.safetensors", config, random_pairs(config, 4, 1))
    rows.write_text(json.dumps({"prompt": "x", "style": "crayon"}) + "\n")
    plan, _ = prepare(rows, settings(lora={"crayon": str(file)}))
    with pytest.raises(UserError, match="of their own in the manifest, an adapter, a creativity map"):
        draw_sample(plan, 4, settings(seed=1))


def test_rows_with_maps_are_left_out_and_counted(rows, settings):
    boxes = [{"box": [0, 0, 0.5, 0.5], "creativity": 0.2}]
    mapped = [
        {"id": "box", "image": "square.png", "prompt": "x", "creativity_boxes": boxes},
        {"id": "map", "image": "square.png", "prompt": "x", "creativity_map": "square.png"},
    ]
    plain = {"id": "plain", "image": "square.png", "prompt": "x", "creativity": 0.9}
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*mapped, plain]))
    plan, _ = prepare(rows, settings(steps=8))
    sample = draw_sample(plan, 4, settings(seed=1, steps=8))
    assert [request.id for request in sample.requests] == ["plain"]
    assert (sample.unaffected, sample.unmeasured) == (0, 2)
    rows.write_text("".join(json.dumps(row) + "\n" for row in mapped))
    plan, _ = prepare(rows, settings(steps=8))
    with pytest.raises(UserError, match=r"all 2 images have .* a creativity map or boxes, or creativity 0: there is"):
        draw_sample(plan, 4, settings(seed=1))


def test_the_sample_is_drawn_by_the_seed(rows, settings):
    rows.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(200)))
    plan, _ = prepare(rows, settings())
    drawn = [[one.id for one in draw_sample(plan, 8, settings(seed=seed)).requests] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 8
    assert max(map(int, drawn[0])) > 60  # not the first ones


def test_step_caches_are_not_tried_where_every_block_is_run(rows, settings, model):
    plan, _ = prepare(rows, settings())
    sample = draw_sample(plan, 4, settings(seed=1))
    added, merged = (_search_space(plan, model, settings(row_adapters=way), sample) for way in ("added", "merged"))
    assert (added.layers, merged.layers) == (model.layers, 0)
