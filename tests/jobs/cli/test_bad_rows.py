"""Rows that cannot be made: one clear message with place and remedy, exit code 2, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import GOOD, invoke, refused
from job_making import picture

JSONL = {
    "not JSON": ([GOOD] * 6 + ['{"prompt": "a heart"'], "shop.jsonl:7: is not JSON", "write one object a line"),
    "creativity 1.3": ([{"image": "a.png", "creativity": 1.3}], "shop.jsonl:1: creativity is 1.3", "from 0"),
    "creativity NaN": (['{"image": "a.png", "creativity": NaN}'], "shop.jsonl:1: is not valid: NaN", "use null or"),
    "creativity alone": ([{**GOOD, "creativity": 0.5}], "shop.jsonl:1: creativity is 0.5", "give an image, or drop"),
    "duplicate ids": (
        [{**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"}],
        "shop.jsonl:3: id 'a' is already at shop.jsonl:1",
        "give each row its own",
    ),
    "an id that num_images makes": (
        [{**GOOD, "id": "a", "num_images": 2}, {**GOOD, "id": "a-1"}],
        "shop.jsonl:2: id 'a-1' is also image 1 of 'a'",
        "rename one",
    ),
    "bad id": ([{**GOOD, "id": "../up"}], "shop.jsonl:1: id is '../up'", "characters A-Z a-z 0-9 . _ -"),
    "size": ([{**GOOD, "width": 100, "height": 64}], "shop.jsonl:1: width is 100", "a multiple of 16"),
    "half a size": ([{**GOOD, "width": 64}], "shop.jsonl:1: width is given without height", "give both"),
    "group of one": (
        [{"blend_group": "g", "image": "a.png"}, GOOD],
        "shop.jsonl:1: blend group 'g' has only this row",
        "it needs two or more",
    ),
    "clashing prompts": (
        [{"blend_group": "g", "image": "a.png", "prompt": p} for p in ("a heart", "a star")],
        "shop.jsonl:2: blend group 'g' has clashing values of prompt: 'a star' here, 'a heart' at shop.jsonl:1",
        "give it once or make it equal",
    ),
    "weight 0": (
        [{"images": ["a.png", "b.png"], "blend_weights": [1, 0]}],
        "shop.jsonl:1: blend_weights[1] is 0",
        "drop it from images",
    ),
    "group weight 0": (
        [{"blend_group": "g", "image": "a.png", "blend_weight": 0}, {"blend_group": "g", "image": "b.png"}],
        "shop.jsonl:1: blend_weight is 0",
        "drop its row",
    ),
    "too few weights": (
        [{"images": ["a.png", "b.png"], "blend_weights": [1]}],
        "shop.jsonl:1: has 1 blend_weights for 2 images",
        "one weight for each",
    ),
    "wrong type": ([{**GOOD, "steps": "many"}], "shop.jsonl:1: steps is 'many'", "an integer from 1 to 1000"),
    "fraction of a step": ([{**GOOD, "steps": 2.5}], "shop.jsonl:1: steps is 2.5", "an integer from 1 to 1000"),
    "a column of two types": (
        [{**GOOD, "price": 5}, {**GOOD, "price": "5 EUR"}],
        "shop.jsonl:2: column 'price' is '5 EUR' here but int64 in the lines before",
        "use one type",
    ),
    "nothing asked": ([{"note": "x"}], "shop.jsonl:1: asks for nothing", "give a prompt"),
    "a column of the output": ([{**GOOD, "sha256": "x"}], "shop.jsonl:1: column 'sha256'", "rename it"),
    "source outside": ([{"image": "../a.png"}], "shop.jsonl:1: image '../a.png' leaves the folder", "--source-fence"),
    "unknown sampler": ([{**GOOD, "sampler": "magic"}], "shop.jsonl:1: sampler 'magic' is unknown", "unipc"),
    "unknown schedule": (
        [GOOD, {**GOOD, "schedule": "cosine"}],
        "shop.jsonl:2: schedule 'cosine' is unknown",
        "use one of linear, karras, exponential, beta",
    ),
    "no steps": ([{**GOOD, "steps": 0}], "shop.jsonl:1: steps is 0", "an integer from 1 to 1000"),
    "sigmas that rise": (
        [{**GOOD, "sigmas": [0.5, 0.9]}],
        "shop.jsonl:1: sigmas is [0.5, 0.9]",
        "below the one before",
    ),
    "equal sigmas": ([{**GOOD, "sigmas": [1, 0.5, 0.5]}], "shop.jsonl:1: sigmas is", "below the one before"),
    "a sigma above 1": ([{**GOOD, "sigmas": [1.5, 0.5]}], "shop.jsonl:1: sigmas[0] is 1.5", "noise levels in (0, 1]"),
    "the final 0": ([{**GOOD, "sigmas": [1, 0.5, 0]}], "shop.jsonl:1: sigmas[2] is 0", "without the final 0"),
    "no sigmas": ([{**GOOD, "sigmas": []}], "shop.jsonl:1: sigmas is []", "a list of noise levels"),
    "sigmas and steps": (
        [{**GOOD, "sigmas": [1, 0.5], "steps": 2}],
        "shop.jsonl:1: has both sigmas and steps",
        "drop one of the two",
    ),
    "sigmas and schedule": (
        [{**GOOD, "sigmas": [1, 0.5], "schedule": "beta"}],
        "shop.jsonl:1: has both sigmas and schedule",
        "drop one of the two",
    ),
    "creativity below the schedule": (
        [{"image": "a.png", "creativity": 0.2, "steps": 4, "shift": 5}],
        "shop.jsonl:1: creativity 0.2 is below the last noise level of 4 steps with the linear schedule and shift 5",
        "the lowest that works is 0.626, or 0",
    ),
    "creativity below the sigmas": (
        [{"image": "a.png", "creativity": 0.4, "sigmas": [1, 0.7]}],
        "shop.jsonl:1: creativity 0.4 is below the last noise level of its sigmas",
        "the lowest that works is 0.7, or 0",
    ),
    "style": (
        [{**GOOD, "style": "ink"}],
        "shop.jsonl:1: style: adapter 'ink' is unknown, as none is registered",
        "register it with --lora ink=PATH",
    ),
    "loras": (
        [{**GOOD, "loras": [{"name": "ink", "weight": 0.5}]}],
        "shop.jsonl:1: loras: adapter 'ink' is unknown, as none is registered",
        "register it with --lora ink=PATH",
    ),
    "audio": ([{**GOOD, "audio": "../a.wav"}], "shop.jsonl:1: audio '../a.wav' leaves the folder", "--source-fence"),
    "empty": ([], "shop.jsonl: has no rows", "write one row for each image"),
    "blank lines": (["", "  "], "shop.jsonl: has no rows", "write one row for each image"),
}


@pytest.mark.parametrize("case", JSONL)
def test_jsonl(run_bad, manifest, case):
    rows, place, remedy = JSONL[case]
    [message] = run_bad(Path(manifest(*rows).name))
    assert message.startswith(place)
    assert remedy in message


@pytest.mark.parametrize("case", JSONL)
def test_plan_refuses_the_same(manifest, model_folder, tmp_path, case):
    rows, place, _ = JSONL[case]
    path = manifest(*rows)
    for name in ("a.png", "b.png"):  # which plan looks for, and a run only once it has begun
        picture(tmp_path / name, 64, 64)
    before = sorted(tmp_path.iterdir())
    [message] = refused(invoke("plan", path.name, "--model", model_folder))
    assert message.startswith(place)
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_are_told_at_once(run_bad, manifest):
    rows = [
        {**GOOD, "creativity": 2, "seed": -1},
        "{",
        GOOD,
        {**GOOD, "width": 33, "height": 64},
        {"blend_group": "g", "image": "a.png"},
    ]
    found = run_bad(manifest(*rows), lines=5)
    places = [message.split("shop.jsonl:")[1].split(": ")[:2] for message in found]
    assert [(place, text.split()[0]) for place, text in places] == [
        *(("1", "creativity"), ("1", "seed"), ("2", "is"), ("4", "width"), ("5", "blend")),
    ]


def test_all_rows_the_version_cannot_make_are_told_at_once(run_bad, manifest):
    found = run_bad(manifest({**GOOD, "style": "ink", "sampler": "x"}, GOOD, {**GOOD, "sampler": "y"}), lines=3)
    assert ["shop.jsonl:1: " in found[0], "shop.jsonl:1: " in found[1], "shop.jsonl:3: " in found[2]] == [True] * 3


def test_many_problems_are_cut(run_bad, manifest):
    found = run_bad(manifest(*[{**GOOD, "steps": 0}] * 500), lines=21)
    assert found[-1] == "... and 480 more: `wanbatch plan MANIFEST --json` lists them all"


def test_plan_as_json_lists_every_problem(manifest, model_folder):
    result = invoke("plan", manifest(*[{**GOOD, "steps": 0}] * 30), "--json", "--model", model_folder)
    assert result.exit_code == 2
    assert result.stderr.startswith("wanbatch: ")
    problems = json.loads(result.stdout)["problems"]
    assert [problem["location"].rpartition(":")[2] for problem in problems] == [str(line) for line in range(1, 31)]
    assert all("steps is 0" in problem["message"] for problem in problems)
