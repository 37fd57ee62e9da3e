"""The sheet with the sample as several candidates make it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from picture_requests import PLAIN
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.tuning.candidates import Candidate, Trial
from wanbatch.jobs.tuning.comparison_sheet import Column, comparison, write_sheet
from wanbatch.jobs.tuning.goals import parse_goal
from wanbatch.jobs.tuning.result import TuningResult
from wanbatch.jobs.tuning.sample import Sample
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.evaluation.metrics import Score

STEPS = (2, 4, 8, 16, 24)


def request(name: str, prompt: str) -> Request:
    return replace(PLAIN, id=name, prompt=prompt, width=32, height=16)


@pytest.fixture
def result() -> TuningResult:
    """The third of five candidates is chosen."""
    trials = tuple(Trial(Candidate("deis", n), Score(2, 20.0 + n, 18.0), n / 100, float(n)) for n in STEPS)
    return TuningResult(
        goal=parse_goal(["psnr>=28"], None),
        reference=Candidate("unipc", 100),
        default=Trial(Candidate("unipc", 30), Score(2, 50.0, 48.0), 0.4, 30.0),
        chosen=trials[2],
        frontier=trials,
        candidates=5,
        fewest_steps=1,
        sample=Sample((request("heart", "a red\nheart"), request("star", "a star")), 2, 0, 0, 0),
        evidence={},
    )


def made(candidate: Candidate) -> dict[str, np.ndarray]:
    """The fewer the steps, the more the images differ from their references; `star` more than `heart`."""
    return {name: np.full((16, 32, 3), share * (100 - candidate.steps), np.uint8) for name, share in SHARES.items()}


SHARES = {"heart": 1, "star": 2}


def test_what_changes_most_stands_first_beside_the_neighbours(result):
    references = {name: np.zeros((16, 32, 3), np.uint8) for name in SHARES}
    columns, captions = comparison(result, references, made)
    titles = [column.title for column in columns]
    assert titles[:3] == ["reference: unipc, 100 steps", "default: unipc, 30 steps", "chosen: deis, 8 steps"]
    assert set(titles[3:]) == {"deis, 4 steps", "deis, 16 steps"}
    assert columns[2].notes == "5.0 x, psnr 28.00"
    assert all((column.pictures["star"] == made(Candidate("", n))["star"]).all() for column, n in
               zip(columns[1:3], (30, 8), strict=True))  # fmt: skip
    assert list(captions) == ["star", "heart"]
    assert captions["star"].endswith(" dB  star: a star")


def test_a_sheet_holds_every_image(tmp_path):
    """A dark one and a light one, each below the other, twice as wide as high."""
    pictures = {"dark": np.zeros((16, 32, 3), np.uint8), "light": np.full((16, 32, 3), 200, np.uint8)}
    path = tmp_path / "new" / "sheet.png"
    write_sheet([Column("one " * 40, pictures), Column("two", pictures)], {"light": "a", "dark": "b"}, path)
    pixels = np.asarray(Image.open(path))
    area = 192 * 96
    assert (pixels == 200).all(axis=2).sum() == pytest.approx(2 * area, rel=0.01)
    light, dark = (np.argwhere((pixels == value).all(axis=2))[:, 0].mean() for value in (200, 0))
    assert light < dark


def test_a_sheet_that_cannot_be_written(tmp_path):
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(UserError, match=r"blocked/sheet\.png: cannot be written"):
        write_sheet([Column("", {"a": np.zeros((8, 8, 3), np.uint8)})], {"a": ""}, tmp_path / "blocked" / "sheet.png")
