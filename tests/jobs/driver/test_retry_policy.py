"""The rules by which units are handed out and rows are judged, without any worker."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver import retry_policy
from wanbatch.jobs.driver.events import UnitLost
from wanbatch.jobs.driver.retry_policy import UnitQueue
from wanbatch.jobs.planning.units import Unit


def units(*rows: int) -> list[np.ndarray]:
    starts = np.cumsum([0, *rows])
    return [np.arange(start, start + count) for start, count in zip(starts, rows, strict=False)]


def lose(queue: UnitQueue, unit: Unit, blamed: bool = True) -> Unit | None:
    return queue.take_back(UnitLost(unit, 0, "killed", blamed))


def test_isolated_units_wait_for_a_worker_that_works():
    queue = UnitQueue(units(2, 2, 2), 0, None)
    one = queue.for_idle(trusted=False)
    assert lose(queue, one) is None
    other = queue.for_idle(trusted=False)
    assert (one.number, other.number) == (0, 1)
    queue.finished(other, 2)
    found = queue.for_idle(trusted=True)
    assert (found.number, found.isolated, found.attempt, found.deaths_alone) == (0, True, 2, 0)


def test_what_waited_behind_a_lost_unit_is_isolated_too_and_has_no_death_counted():
    queue = UnitQueue(units(1, 1), 0, 5)
    first = queue.for_idle(trusted=True)
    [second] = queue.for_busy(1)
    assert lose(queue, first) is lose(queue, second, blamed=False) is None
    found = [queue.for_idle(trusted=True) for _ in range(2)]
    assert [(unit.number, unit.attempt, unit.deaths_alone) for unit in found] == [(0, 2, 0), (1, 1, 0)]


def test_workers_are_kept_free_for_isolated_units():
    queue = UnitQueue(units(1, 1, 1, 1), 0, 5)
    lose(queue, queue.for_idle(trusted=True))
    assert len(queue.for_busy(3)) == 2


def test_a_probe_is_made_where_nothing_waits():
    queue = UnitQueue(units(1), 7, 5)
    lose(queue, queue.for_idle(trusted=False))
    probe = queue.for_idle(trusted=False)
    assert (probe.probe, probe.indices.tolist(), probe.number) == (True, [5], 8)
    assert lose(queue, probe) is None
    assert queue.for_idle(trusted=False).probe
    assert not queue.for_idle(trusted=True).probe


def test_probes_are_made_when_all_that_waits_is_lost():
    queue = UnitQueue(units(*[1] * 20), 0, 5)
    given = []
    while not given or not given[-1].probe:
        given.append(queue.for_idle(trusted=False))
        lose(queue, given[-1])
    assert len(given) == retry_policy.LOSSES_BEFORE_PROBES + 1
    queue.finished(given[-1], 1)
    assert not queue.for_idle(trusted=False).probe


@pytest.mark.parametrize(("rows", "losses"), [(1, 5), (2, 6), (16, 9), (17, 10)])
def test_a_row_that_kills_costs_a_bounded_number_of_workers(rows, losses):
    """Wherever it stands; the others of its unit are made."""
    for deadly in range(rows):
        queue, lost, made = UnitQueue(units(rows), 0, 100), 0, 0
        while queue:
            unit = queue.for_idle(trusted=True)
            if deadly in unit.indices:
                lost += 1
                if (quarantined := lose(queue, unit)) is not None:
                    assert quarantined.indices.tolist() == [deadly]
            else:
                made += len(unit.indices)
                queue.finished(unit, len(unit.indices))
        assert made == rows - 1
        assert lost <= losses


def test_broken_machinery_ends_the_run_and_quarantines_nobody():
    for made_image in (None, 50):
        queue = UnitQueue(units(*[4] * 40), 0, made_image)
        for _ in range(retry_policy.MAX_LOSSES_IN_A_ROW):
            assert lose(queue, queue.for_idle(trusted=False)) is None
            queue.raise_if_too_many_losses(workers=1)
        lose(queue, queue.for_idle(trusted=False))
        with pytest.raises(MachineryError, match="33 workers were lost one after the other; the last: killed"):
            queue.raise_if_too_many_losses(workers=1)


def test_a_whole_cluster_may_be_lost_at_once():
    queue = UnitQueue(units(*[1] * 300), 0, 5)
    for unit in [queue.for_idle(trusted=True) for _ in range(200)]:
        lose(queue, unit)
    queue.raise_if_too_many_losses(workers=200)


def test_random_kills_quarantine_no_innocent_row():
    """Each try is hit with a chance of 0.1; 2,000 rows, one a unit, which is the worst case."""
    chance = random.Random(0)
    queue = UnitQueue(units(*[1] * 2000), 0, None)
    trusted = False
    while queue:
        unit = queue.for_idle(trusted)
        trusted = chance.random() >= 0.1
        if trusted:
            queue.finished(unit, 1)
        else:
            assert lose(queue, unit) is None


def test_a_damaged_attempt_is_made_again_without_a_strike_until_the_disk_is_to_blame():
    queue = UnitQueue(units(2), 0, None)
    for tries in range(1, retry_policy.MAX_DAMAGED_ATTEMPTS):
        unit = queue.for_idle(trusted=False)
        assert (unit.attempt, unit.deaths_alone, unit.isolated, unit.size) == (tries, 0, False, 2)
        queue.make_again(unit, "data.parquet is not what was written")
    with pytest.raises(MachineryError, match=r"unit 0 was written 4 times.*data\.parquet is not what was written"):
        queue.make_again(queue.for_idle(trusted=False), "data.parquet is not what was written")


def test_a_damaged_attempt_of_an_isolated_unit_stays_isolated():
    queue = UnitQueue(units(1), 0, 5)
    lose(queue, queue.for_idle(trusted=True))
    queue.make_again(queue.for_idle(trusted=True), "cut")
    assert queue.for_idle(trusted=True).isolated


def test_a_probe_that_cannot_be_made_any_more_is_not_asked_for_again():
    """Its source is gone meanwhile, so no worker would ever earn trust by it, and what is isolated would wait."""
    queue = UnitQueue(units(1), 0, 5)
    lose(queue, queue.for_idle(trusted=False))
    probe = queue.for_idle(trusted=False)
    assert probe.probe
    queue.finished(probe, 0)
    assert not queue.for_idle(trusted=False).probe


def test_a_node_that_is_lost_is_no_strike():
    """What its workers held waits as it was, before all else; neither the unit nor the run is nearer to its limit."""
    queue = UnitQueue(units(1, 1, 1), 0, None)
    for _ in range(retry_policy.MAX_NODES_LOST):
        first = queue.for_idle(trusted=False)
        assert (first.number, first.attempt, first.isolated, first.deaths_alone) == (0, 1, False, 0)
        assert queue.take_back(UnitLost(first, 0, "node lost", blamed=True, with_node=True)) is None
        queue.raise_if_too_many_losses(workers=1)
    first = queue.for_idle(trusted=False)
    assert queue.take_back(UnitLost(first, 0, "node lost", blamed=True, with_node=True)) is None
    assert queue.for_idle(trusted=True).isolated, "from then on it may be the row that takes nodes with it"


def test_units_behind_one_that_lost_its_node_may_lose_any_number():
    queue = UnitQueue(units(1, 1), 0, None)
    for _ in range(50):
        unit = queue.for_idle(trusted=False)
        queue.take_back(UnitLost(unit, 0, "node lost", blamed=False, with_node=True))
    assert not queue.for_idle(trusted=False).isolated


def test_an_isolated_unit_keeps_its_deaths_where_a_node_is_lost():
    queue = UnitQueue(units(1), 0, 5)
    lose(queue, queue.for_idle(trusted=True))
    lose(queue, queue.for_idle(trusted=True))
    unit = queue.for_idle(trusted=True)
    queue.take_back(UnitLost(unit, 0, "node lost", blamed=True, with_node=True))
    again = queue.for_idle(trusted=True)
    assert (again.isolated, again.deaths_alone, again.attempt) == (True, 1, 3)
