"""Making requests with one candidate's settings after another's."""

from __future__ import annotations

from dataclasses import replace

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.sample import load_requests
from wanbatch.jobs.tuning.trials import CandidateRunner
from wanbatch.manifests.sources.loader import SourceLoader


def test_a_candidate_changes_its_settings_alone(rows, settings, wan):
    """The same noise and prompt; what the candidate says instead of what the row says."""
    plan, _ = prepare(rows, settings())
    images = plan.task(0, 1, "", [0, 1]).images
    requests, unfit = load_requests(images, 5, lambda: SourceLoader(rows.parent))
    assert not unfit
    made = CandidateRunner(wan, requests).make(Candidate("dpmpp_2m", 4, "taylor:interval=2", "karras"))
    assert made.seconds > 0
    assert made.blocks < 2 * 3 * 4  # of two branches, three blocks, four steps
    wan.use_step_cache("taylor:interval=2")
    expected = [replace(one, sampler="dpmpp_2m", steps=4, schedule="karras") for one in requests]
    for result in wan.generate(expected):
        assert (made.pictures[result.request.id] == result.pixels).all()


def test_a_picture_of_no_numbers_is_black_and_told(rows, settings, wan):
    plan, _ = prepare(rows, settings())
    requests, _ = load_requests(plan.task(0, 1, "", [0, 1]).images, 5, lambda: SourceLoader(rows.parent))
    requests[1] = replace(requests[1], guidance=1e38)
    made = CandidateRunner(wan, requests).make(Candidate("unipc", 6))
    assert made.failed == ("star",)
    assert made.pictures["star"].max() == 0
    assert made.pictures["heart"].max() > 0
