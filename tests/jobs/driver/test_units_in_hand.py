"""What a worker holds: for how many units it has room, which one it is lost on, and how long one may take."""

from __future__ import annotations

import numpy as np

from wanbatch.jobs.driver.units_in_hand import UnitsInHand
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.worker.messages import UnitReport, WorkerStatus


def unit(number: int = 0, size: int = 1, isolated: bool = False) -> Unit:
    return Unit(number, np.arange(size), isolated=isolated)


def holding(*units: Unit, generated: int = 0, entered: int = 0) -> UnitsInHand:
    held = UnitsInHand()
    for one in units:
        held.add(one, 10.0, now=0.0)
    held.update(WorkerStatus([], generated, (-1, 0), entered), now=0.0)
    return held


def test_there_is_room_for_one_unit_beside_that_in_the_model_and_two_that_are_written():
    assert holding(unit()).have_room
    assert not holding(unit(), unit()).have_room
    assert holding(unit(), unit(), generated=1).have_room
    assert holding(*[unit()] * 3, generated=2).have_room
    assert not holding(*[unit()] * 4, generated=3).have_room


def test_the_next_unit_is_made_ready_when_the_last_one_has_entered_the_model():
    assert not holding(unit(), unit(), entered=1).have_room
    assert holding(unit(), unit(), entered=2).have_room
    assert holding(*[unit()] * 4, entered=4).have_room
    assert not holding(*[unit()] * 5, entered=5).have_room  # so many share the slots
    assert holding(*[unit()] * 5, generated=1, entered=5).have_room


def test_an_isolated_unit_stands_alone():
    assert not holding(unit(isolated=True)).have_room


def test_nothing_is_added_to_nothing():
    """A worker without units is idle, and gets its next one as such."""
    assert not UnitsInHand().have_room
    assert not UnitsInHand()


def test_the_clock_of_a_unit_starts_with_the_model():
    first, second = unit(0), unit(1)
    held = UnitsInHand()
    held.add(first, 10.0, now=0.0)
    held.add(second, 10.0, now=1.0)
    assert held.overdue(now=10.0) is None
    assert held.overdue(now=10.5) == (first, 10.0)
    report = UnitReport(None, 0.0, 0.0, 1)
    assert held.update(WorkerStatus([report], 0, (0, 1)), now=8.0) == [(first, report)]
    assert held.in_model is second
    assert held.overdue(now=17.0) is None
    assert held.overdue(now=18.5) == (second, 10.0)


def test_what_enters_the_model_beside_a_unit_may_take_its_time_too():
    first, second, third = (unit(number) for number in range(3))
    held = UnitsInHand()
    for one in (first, second, third):
        held.add(one, 10.0, now=0.0)
    held.update(WorkerStatus([], 0, (0, 1), 1), now=1.0)
    held.update(WorkerStatus([], 0, (0, 1), 2), now=2.0)
    held.update(WorkerStatus([], 0, (0, 1), 2), now=3.0)
    assert held.overdue(now=20.0) is None
    assert held.overdue(now=20.5) == (first, 20.0)
    held.update(WorkerStatus([], 1, (1, 1), 3), now=18.0)  # written soon: what it was allowed stays
    assert held.overdue(now=20.0) is None
    assert held.overdue(now=20.5) == (first, 20.0)
    held.update(WorkerStatus([UnitReport(None, 0.0, 0.0, 1)], 0, (1, 1), 2), now=19.0)
    assert held.overdue(now=38.0) is None
    assert held.overdue(now=38.5) == (second, 20.0)


def test_a_unit_that_is_being_written_still_has_its_deadline():
    first, second = unit(0), unit(1)
    held = holding(first, second, generated=1)
    assert held.in_model is second
    assert held.first is first
    assert held.overdue(now=10.5) == (first, 10.0)


def test_images_are_counted_as_reported():
    held = holding(unit(0, size=3), unit(1, size=4))
    held.update(WorkerStatus([], 0, (0, 2)), now=0.0)
    assert held.images_made == 2
    held.update(WorkerStatus([], 1, (1, 1)), now=0.0)
    assert held.images_made == 3 + 1
    held.update(WorkerStatus([], 1, (0, 3)), now=0.0)  # unit 1 has not got the model yet
    assert held.images_made == 3


def test_a_lost_worker_holds_nothing():
    units = [unit(0), unit(1)]
    held = holding(*units, generated=1)
    assert held.take_all() == units
    assert not held
    assert held.in_model is None
    assert held.images_made == 0
