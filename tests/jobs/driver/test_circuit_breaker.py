"""When images that fail alike stop a run, and when they are quarantined as rows with faults of their own."""

from __future__ import annotations

import random

import pytest

from wanbatch.jobs.driver import circuit_breaker
from wanbatch.jobs.driver.circuit_breaker import CircuitBreaker, explanation


def after(breaker: CircuitBreaker, outcomes: str | list[str | None]) -> str | None:
    """Count images one by one; None: made."""
    for kind in outcomes:
        breaker.count(1, ()) if kind is None else breaker.count(0, [kind])
        if breaker.open_for:
            break
    return breaker.open_for


@pytest.mark.parametrize("kind", ["error", "unreachable", "unreadable_image"])
def test_the_first_images_that_all_fail_for_a_common_cause_open_it(kind):
    breaker = CircuitBreaker(1000, made_before=0)
    assert after(breaker, [kind] * 15) is None
    assert breaker.starting
    assert after(breaker, [kind]) == kind


def test_a_unit_of_many_counts_image_by_image():
    breaker = CircuitBreaker(1000, 0)
    breaker.count(0, ["error"] * 16)
    assert breaker.open_for == "error"


@pytest.mark.parametrize(("pending", "opened"), [(3, None), (4, "error"), (10, "error")])
def test_a_small_manifest_opens_it_when_all_of_it_fails(pending, opened):
    assert after(CircuitBreaker(pending, 0), ["error"] * pending) == opened


def test_missing_images_open_it_only_where_everything_is_missing():
    assert after(CircuitBreaker(1000, 0), ["missing_image"] * 63) is None
    assert after(CircuitBreaker(1000, 0), ["missing_image"] * 64) == "missing_image"
    assert after(CircuitBreaker(20, 0), ["missing_image"] * 20) == "missing_image"
    assert after(CircuitBreaker(1000, 0), [None] + ["missing_image"] * 900) is None
    assert after(CircuitBreaker(1000, made_before=5), ["missing_image"] * 900) is None


def test_what_earlier_runs_have_made_does_not_excuse_a_common_cause():
    assert after(CircuitBreaker(1000, made_before=5), ["error"] * 16) == "error"


def test_a_manifest_with_many_bad_images_of_many_kinds_is_gone_through():
    chance = random.Random(0)
    kinds = ["missing_image", "bad_image", "too_large", "error", "unreachable", "nan", None]
    assert after(CircuitBreaker(5000, 0), chance.choices(kinds, k=5000)) is None


def test_a_mount_that_dies_in_the_middle_opens_it():
    breaker = CircuitBreaker(5000, 0)
    assert after(breaker, [None] * 500 + ["unreadable_image"] * 23) is None
    assert after(breaker, ["unreadable_image"]) == "unreadable_image"


def test_a_large_share_suffices():
    breaker = CircuitBreaker(5000, 0)
    assert after(breaker, [None] * 100 + [*["error"] * 4, None] * 8) == "error"
    breaker = CircuitBreaker(5000, 0)
    assert after(breaker, [None] * 100 + [*["error"] * 2, None] * 500) is None


def test_off_means_off():
    breaker = CircuitBreaker(1000, 0, enabled=False)
    assert after(breaker, ["error"] * 1000) is None
    assert not breaker.starting
    assert not breaker.suspects(0, ["error"] * 16)


def test_units_that_mostly_failed_for_a_common_cause_are_suspects():
    breaker = CircuitBreaker(1000, 0)
    assert breaker.suspects(0, ["error"])
    assert breaker.suspects(8, ["error"] * 8)
    assert not breaker.suspects(9, ["error"] * 7)
    assert not breaker.suspects(0, ["missing_image"] * 16)


def test_a_window_of_failures_is_never_released_before_it_opens():
    """A unit is let go after so many further images that the window cannot hold enough failures with them."""
    room = circuit_breaker.WINDOW - circuit_breaker.WINDOW_FAILURES
    assert room < circuit_breaker.MADE_SINCE


def test_the_explanation_names_cause_and_remedy():
    text = explanation("error", {"error": 16}, "ValueError: no such adapter")
    for part in (
        "16 images",
        "error",
        "ValueError: no such adapter",
        "run the same command again",
        "--circuit-breaker",
    ):
        assert part in text
