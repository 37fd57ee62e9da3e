"""Whether augmentation pays: intervals of paired trainings, and what is said of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import scipy.stats

from wanbatch.jobs.augment.statistics import ARMS, Measured, paired, plot, table

BASE = (0.50, 0.54, 0.47, 0.52, 0.51)


def measured(**gains: float) -> Measured:
    """Arms that are better than the first by so much with every seed, give or take a little."""
    small = (0.004, -0.004, 0.002, -0.002, 0.0)
    accuracies = {
        arm: tuple(
            base + gains.get(arm, 0.0) + (noise if arm in gains else 0)
            for base, noise in zip(BASE, small, strict=True)
        )
        for arm in ARMS
    }
    classes = ("box", "disc")
    per_class = {arm: (0.5 + gains.get(arm, 0.0), 0.5 - gains.get(arm, 0.0)) for arm in ARMS}
    return Measured(classes, accuracies, per_class, dict.fromkeys(ARMS, 10), 40)


def test_intervals_are_those_of_a_paired_t_test():
    ours, theirs = (0.61, 0.60, 0.66, 0.58, 0.63), BASE
    found = paired(ours, theirs)
    exact = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(exact.low, abs=1e-4), pytest.approx(exact.high, abs=1e-4))
    assert paired([0.6], [0.5]).is_gain is False


def test_it_pays_only_if_it_beats_repetition_and_classic_augmentation():
    good = measured(classic=0.05, ours=0.1, both=0.12, filtered=0.1)
    assert good.paying() == ["ours", "both", "filtered"]
    assert good.verdict() == (
        "It pays: ours, both, filtered are better than repetition and than classic augmentation; both by 7.0 points "
        "at least."
    )
    poor = measured(classic=0.1, ours=0.05, both=0.1, filtered=0.05)
    assert poor.paying() == []
    assert poor.verdict().startswith("It does not pay here: both, the best arm with made pictures, has +0.0 points [")
    assert poor.verdict().endswith("over classic.")


def test_the_table_the_plot_and_the_json_have_every_arm():
    good = measured(classic=0.05, ours=0.1)
    lines = table(good)
    assert [line.split()[0] for line in lines[1:7]] == list(ARMS)
    assert lines[4].split()[1:3] == ["10", "60.8%"]
    assert lines[-1] == "  by class, ours over classic: box +5.0, disc -5.0"
    picture = ET.fromstring(plot(good))
    dots = [each for each in picture.iter() if each.tag.endswith("circle")]
    assert len(dots) == 5 * len(ARMS)
    told = good.as_json()
    assert told["change_by_class"] == {"box": 0.05, "disc": -0.05}
    assert told["gains"]["ours"]["classic"][0] == 0.05
