"""Which pictures are rejected: bands learnt from a run, duplicates, and the order of reasons."""

from __future__ import annotations

import numpy as np
import pytest

from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.gathered import UNKNOWN, Gathered
from wanbatch.jobs.augment.measures import blended, distance, measure, small
from wanbatch.jobs.augment.near_copies import fingerprint_of
from wanbatch.jobs.augment.verdicts import REASONS, Checked, Tally, judge


def checked(number, creativity=0.3, apart=0.1, **more):
    good = {"decodes": True, "size_matches": True, "brightness": 100.0, "contrast": 40.0, "sharpness": 10.0}
    given = {**good, "source_sharpness": 12.0, "source_distance": apart, **more}
    return Checked(f"row-{number}", number, 0, f"sha-{number}", "disc", creativity, **given)


def together_of(pictures, checks):
    gathered = Gathered()
    for one in pictures:
        gathered.add(one)
    return gathered.together(checks)


def learnt_bands(pictures, tolerance):
    return together_of(pictures, Checks(tolerance=tolerance)).bands


def judge_all(pictures, checks, bands):
    """As a folder's pictures are judged, with these bands."""
    together = together_of(pictures, checks)
    for place, one in enumerate(pictures):
        one.exact_duplicate = bool(together.exact_duplicate[place])
        one.near_duplicate = bool(together.near_duplicate[place] > 0)
        judge(one, checks, bands, together.usual_sharpness)


def tally_of(pictures):
    tally = Tally()
    for one in pictures:
        tally.add(one)
    return tally


def noise(seed, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (48, 64, 3)).astype(np.uint8)


def test_measures_of_pictures_that_are_known():
    black, grey = np.zeros((20, 30, 3), np.uint8), np.full((20, 30, 3), 128, np.uint8)
    assert (measure(black).brightness, measure(black).contrast, measure(black).sharpness) == (0, 0, 0)
    assert measure(grey).brightness == 128
    board = np.kron(np.indices((20, 20)).sum(axis=0) % 2, np.ones((1, 1)))[..., None].repeat(3, axis=2) * 255
    assert measure(board.astype(np.uint8)).contrast == pytest.approx(127.5)
    assert measure(board.astype(np.uint8)).sharpness > 500
    assert distance(small(black), small(grey)) == pytest.approx(128 / 255)
    assert distance(blended([small(black), small(grey)], [1, 3]), small(grey)) == pytest.approx(32 / 255, abs=1e-3)


def test_bands_follow_the_run_and_few_pictures_teach_nothing():
    near = [checked(n, 0.3, 0.10 + n / 1000) for n in range(20)]
    far = [checked(n, 0.7, 0.30 + n / 100) for n in range(20)]
    few = [checked(n, 0.9, 0.5) for n in range(7)]
    bands = learnt_bands([*near, *far, *few], 3)
    assert [band.creativity[0] for band in bands] == [0.3, 0.7]
    assert bands[0].distance == (pytest.approx(0.0873, abs=1e-3), pytest.approx(0.1317, abs=1e-3))
    assert bands[1].distance[1] > 0.5
    again = learnt_bands([*far, *few, *near], 3)
    assert again == bands


def test_pictures_outside_their_band_are_rejected_and_the_others_are_not():
    pictures = [checked(n, 0.3, 0.1 + n / 1000) for n in range(20)]
    pictures += [checked(20, 0.3, 0.0), checked(21, 0.3, 0.4), checked(22, 0.9, 0.4), checked(23, None, None)]
    judge_all(pictures, Checks(), learnt_bands(pictures, 5))
    assert [(one.id, one.rejected_by) for one in pictures if one.rejected_by] == [
        ("row-20", ["too_near"]),
        ("row-21", ["too_far"]),
    ]
    assert (pictures[22].too_far, pictures[23].too_far) == (None, None)
    given = Band(creativity=(0.8, 1.0), distance=(0.5, 0.9))
    judge_all(pictures, Checks(), [given])
    assert [one.id for one in pictures if one.rejected_by] == ["row-22"]


def test_each_defect_has_its_own_reason():
    prints = [fingerprint_of(noise(1)), fingerprint_of(noise(2))]
    pictures = [
        checked(0, fingerprint=prints[0]),
        checked(1, decodes=False),
        checked(2, size_matches=False),
        checked(3, brightness=1.0, contrast=0.5, sharpness=0.0),
        checked(4, contrast=0.5, sharpness=0.0),
        checked(5, sharpness=0.9),
        checked(6, sharpness=0.9, source_sharpness=None),
        checked(7, fingerprint=prints[0]),
        checked(8, fingerprint=prints[1], near_held_out=True),
        checked(9, label_rank=1),
        checked(10, label_rank=0),
    ]
    pictures[7].sha256 = pictures[0].sha256
    copy = checked(11, fingerprint=prints[0])
    judge_all([*pictures, copy], Checks(top_k=1), ())
    assert [one.rejected_by for one in pictures] == [
        *([], ["undecodable"], ["wrong_size"], ["black"], ["flat"], ["blurred"], ["blurred"]),
        *(["exact_duplicate"], ["held_out_copy"], ["wrong_class"], []),
    ]
    assert (copy.near_duplicate, copy.rejected_by) == (True, [])
    judge_all([*pictures, copy], Checks(duplicates="near", top_k=2), ())
    assert copy.rejected_by == ["near_duplicate"]
    assert (pictures[7].rejected_by, pictures[9].rejected_by) == (["exact_duplicate"], [])
    judge_all(pictures, Checks(duplicates="none"), ())
    assert pictures[7].rejected_by == []
    assert set(tally_of([*pictures, copy]).by_reason()) <= set(REASONS)


def test_counts_by_class_and_by_reason():
    pictures = [checked(n) for n in range(4)]
    pictures[1].label = pictures[2].label = "box"
    judge_all([*pictures], Checks(), ())
    pictures[2].rejected_by = ["flat", "blurred"]
    pictures[3].rejected_by = ["flat"]
    assert [(one.label, one.made, one.rejected) for one in tally_of(pictures).by_class()] == [
        ("box", 2, 1),
        ("disc", 2, 1),
    ]
    assert tally_of(pictures).by_reason() == {"flat": 2, "blurred": 1}


def test_a_creativity_of_one_has_a_band():
    pictures = [checked(number, 1.0, 0.2 + number / 1000) for number in range(9)]
    pictures.append(checked(9, 1.0, 0.9))
    (band,) = learnt_bands(pictures, 5.0)
    assert band.creativity == (0.9, 1.0)
    judge_all(pictures, Checks(), [band])
    assert [one.id for one in pictures if one.rejected_by] == ["row-9"]


def test_of_pictures_that_are_alike_the_first_of_the_manifest_is_kept_in_whatever_order_they_come():
    prints = [fingerprint_of(noise(seed)) for seed in (1, 2, 3)]
    pictures = [checked(number, fingerprint=prints[number % 3]) for number in range(6)]
    for one in pictures[3:]:
        one.sha256 = pictures[one.manifest_row - 3].sha256
    pictures.append(checked(6))  # whose file cannot be read
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 3, 5, 1, 0, 4, 2]):
        shuffled = [pictures[number] for number in order]
        together = together_of(shuffled, Checks())
        found = {one.manifest_row: place for place, one in enumerate(shuffled)}
        assert [bool(together.exact_duplicate[found[number]]) for number in range(7)] == [False] * 3 + [True] * 3 + [
            False
        ]
        assert [int(together.near_duplicate[found[number]]) for number in range(7)] == [0, 0, 0, 1, 1, 1, UNKNOWN]


def test_of_images_of_one_row_the_first_variant_is_kept():
    pictures = [checked(0, fingerprint=fingerprint_of(noise(1))) for _ in range(2)]
    pictures[0].variant, pictures[1].variant = 1, 0
    together = together_of(pictures, Checks())
    assert together.exact_duplicate.tolist() == [True, False]
    assert together.near_duplicate.tolist() == [1, 0]
