"""Deadlines against workers that are healthy: units of known cost, as a batch of fixed size makes them."""

from __future__ import annotations

import heapq
import random

import numpy as np
import pytest
from job_making import picture, write_jsonl

from wanbatch.jobs.driver import deadlines
from wanbatch.jobs.driver.deadlines import Deadlines
from wanbatch.jobs.planning.noise_schedule import schedules_of
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.planning.workload import workload_of
from wanbatch.pipeline.sampling.solvers import SOLVERS, solve


def planned(folder, settings, rows: list[dict]) -> Plan:
    picture(folder / "a.png", 64, 64)
    return prepare(write_jsonl(folder / "m.jsonl", rows), settings)[0]


def judge(plan: Plan, slots: int = 4, fixed: float | None = None) -> Deadlines:
    return Deadlines(workload_of(plan), plan.ids(), slots, fixed)


def unit(*places: int) -> Unit:
    return Unit(0, np.array(places))


class Machine:
    """What a unit costs on a worker whose every evaluation, coded picture and row takes a known time.

    Evaluations run in a batch of fixed size, whose cost does not depend on how many of its slots are in use; a row
    enters as soon as a slot is free.
    """

    def __init__(self, plan: Plan, slots: int, evaluation: float, coding: float, row: float):
        """evaluation, coding: seconds for an image of 64x64 pixels. row: seconds that every row takes besides."""
        self._slots, self._evaluation, self._coding, self._row = slots, evaluation, coding, row
        images = plan.images
        columns = (images[name].to_pylist() for name in ("sampler", "creativity", "guidance", "width", "height"))
        self._rows = []  # evaluations, and the picture's area
        for sampler, start, guidance, width, height, schedule in zip(*columns, schedules_of(images), strict=True):
            steps, shift, name, sigmas = schedule
            solved = solve(sampler, steps, shift, start, name, sigmas)
            self._rows.append((solved.steps * (1 + (guidance > 1)), width * height / 64**2))

    def seconds(self, one: Unit) -> float:
        rows = [self._rows[place] for place in one.indices]
        free = [0] * self._slots  # when each slot is, in evaluations of the batch
        for count, _ in rows:
            heapq.heapreplace(free, free[0] + count)
        area = rows[0][1]
        batch = max(free) * self._slots * self._evaluation * area
        return batch + sum(2 * self._coding * size + self._row for _, size in rows)


def test_a_guided_unit_of_two_evaluations_a_step_after_one_of_creativity(tmp_path, settings):
    """Measured before: 960 s were allowed to a unit that needs 1584, and 120 s to one of its rows, which needs 198.

    A worker that does nothing wrong was ended each time, and after five times its row was quarantined.
    """
    easy = {"image": "a.png", "creativity": 0.6, "guidance": 1, "sampler": "unipc", "steps": 50}
    hard = {"prompt": "x", "guidance": 5, "sampler": "heun", "steps": 50}
    plan = planned(tmp_path, settings(shift=5.0, width=64, height=64), [easy] * 8 + [hard] * 8)
    machine, judged = Machine(plan, slots=4, evaluation=0.25, coding=0.1, row=0.05), judge(plan)
    first, second, alone = unit(*range(8)), unit(*range(8, 16)), unit(8)
    judged.learn(first, plan.ids()[:8], machine.seconds(first))
    assert machine.seconds(alone) > 190
    for one in (second, alone):
        assert judged.seconds_for(one) > 5 * machine.seconds(one)


@pytest.mark.parametrize("seed", range(8))
def test_no_sequence_of_healthy_units_comes_near_its_deadlines(tmp_path, settings, seed, monkeypatch):
    """Rows of every solver, creativity, size and guidance in units of any number, in any order, on three machines.

    Only the shares that grow with the work are looked at: the constant ones, which forgive much, are taken away.
    """
    for name in ("UNIT_SECONDS", "IMAGE_SECONDS", "FIRST_BATCH_SECONDS"):
        monkeypatch.setattr(deadlines, name, 0.0)
    chance = random.Random(seed)
    rows = []
    for _ in range(60):
        side = chance.choice([32, 64, 256, 512])
        row = {"prompt": "x", "sampler": chance.choice(list(SOLVERS)), "steps": chance.choice([4, 12, 50])}
        row |= {"guidance": chance.choice([1, 5]), "width": side, "height": chance.choice([32, side])}
        if chance.random() < 0.5:
            row |= {"image": "a.png", "creativity": chance.choice([0.0, 0.6, 0.8, 1.0])}
        rows.append(row)
    plan = planned(tmp_path, settings(), rows)
    ids, slots = plan.ids(), chance.choice([1, 4, 16])
    machine = Machine(plan, slots, evaluation=0.01, coding=chance.choice([0.005, 0.02, 0.05]), row=0.0)
    judged, nearest = judge(plan, slots), 0.0
    units = [unit(*places) for rows in (1, 3, 16) for places in plan.units(rows)]
    chance.shuffle(units)
    for one in units:
        needed = machine.seconds(one)
        if allowed := judged.seconds_for(one):
            nearest = max(nearest, needed / allowed)
        judged.learn(one, [ids[place] for place in one.indices], needed)
    assert 0 < nearest < 0.75, "the longest took less than three quarters of what it was allowed"


def test_nothing_is_learned_from_images_that_failed(tmp_path, settings):
    """15 rows of many steps failed at once, one of few was made: its time is that of the few."""
    many, few = {"prompt": "x", "steps": 100}, {"prompt": "x", "steps": 2}
    plan = planned(tmp_path, settings(), [few] + [many] * 15)
    machine, judged = Machine(plan, 4, 1.0, 0.0, 0.0), judge(plan)
    before = judged.seconds_for(unit(1))
    judged.learn(unit(1, 2), [], 0.001)
    assert judged.seconds_for(unit(1)) == before
    judged.learn(unit(*range(16)), plan.ids()[:1], machine.seconds(unit(0)))
    assert judged.seconds_for(unit(1)) > 5 * machine.seconds(unit(1))


def test_units_that_denoise_nothing_do_not_judge_those_that_do(tmp_path, settings):
    keep = {"image": "a.png", "creativity": 0.0}
    plan = planned(tmp_path, settings(), [keep, {"prompt": "x", "steps": 1000}])
    judged = judge(plan)
    first = judged.seconds_for(unit(1))
    judged.learn(unit(0), plan.ids()[:1], 0.01)
    assert judged.seconds_for(unit(1)) == first > 3600
    assert judged.seconds_for(unit(0)) < 200


def test_many_small_images_and_slow_web_servers_have_their_time(tmp_path, settings):
    """What does not grow with pixels: 64 rows, each of which a server takes a minute to give."""
    small = {"image": "http://a.example/a.png", "width": 32, "height": 32, "steps": 2}
    plan = planned(tmp_path, settings(allow_http=True), [{"prompt": "x", "width": 512, "height": 512}] + [small] * 64)
    judged = judge(plan)
    judged.learn(unit(0), plan.ids()[:1], 0.5)
    assert judged.seconds_for(unit(*range(1, 65))) > 64 * 60


def test_a_fixed_deadline_holds_for_every_unit(tmp_path, settings):
    plan = planned(tmp_path, settings(), [{"prompt": "x"}] * 3)
    judged = judge(plan, fixed=7.0)
    judged.learn(unit(0), plan.ids()[:1], 1e6)
    assert judged.seconds_for(unit(1, 2)) == 7.0
