"""Syntax of other tools in prompts has no effect here, and is told of."""

from __future__ import annotations

import pytest
from job_making import write_jsonl

from wanbatch.jobs.planning.preparation import prepare


@pytest.fixture
def warnings(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(*prompts: str, **other) -> tuple[str, ...]:
        write_jsonl(tmp_path / "m.jsonl", [{"prompt": prompt, **other} for prompt in prompts])
        return prepare("m.jsonl", settings(model="tiny"), weights=False)[0].warnings

    return of


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a star <lora:ink:0.8>", "adapters as <lora:name:weight>"),
        ("a (red star:1.3) on blue", "weights as (words:1.2)"),
        ("a {red|blue} star", "choices as {one|another}"),
        ("a __color__ star", "wildcards as __name__"),
        ("__styles/ink__", "wildcards as __name__"),
    ],
)
def test_each_syntax(warnings, prompt, told):
    expected = f"the prompt of 1 row has {told}, which the model reads as plain text: m.jsonl:2"
    assert warnings("a star", prompt) == (expected,)
    assert warnings("a star", negative_prompt=prompt) == (expected.replace("jsonl:2", "jsonl:1"),)


def test_many_rows(warnings):
    (told,) = warnings(*["(a:1.5)"] * 7)
    assert told.startswith("the prompts of 7 rows have weights")
    assert told.endswith("m.jsonl:4, m.jsonl:5 and 2 more")


@pytest.mark.parametrize(
    "prompt",
    [
        "a star (red)",
        "a <b> c",
        "{red}",
        "snake_case __init",
        "a ____ b",
        "f(x: y)",
        "at (10:30)",
        "a (4:3) picture",
        "[red|blue]",
        "a|b",
    ],
)
def test_plain_text(warnings, prompt):
    assert warnings(prompt) == ()
