"""Probes run in processes of their own, so that none can hang the command, end it, or garble what it prints."""

from __future__ import annotations

import doctor_probes
import psutil
from job_making import wait_until

from wanbatch.jobs.doctor.check import Check, Question
from wanbatch.jobs.doctor.runner import examine, run


def check(probe, **more) -> Check:
    return Check("x", doctor_probes.Said, probe, doctor_probes.judge, **more)


def test_what_a_probe_prints_is_not_its_answer():
    found = run(check(doctor_probes.talk), Question(model="a model"))
    assert (found.finding.level, found.finding.message) == ("ok", "it was asked of a model")
    assert found.facts == {"model": "a model"}


def test_a_probe_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    hanging = check(doctor_probes.hang, seconds=5, hung="mount the disk again")
    found = run(hanging, Question(model=str(tmp_path)))
    assert (found.finding.level, found.facts) == ("fault", None)
    assert (found.finding.message, found.finding.remedy) == ("no answer within 5 s", "mount the disk again")
    child = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_a_probe_that_dies_or_fails_is_a_fault_of_its_check():
    died, failed = examine(Question(), [check(doctor_probes.die), check(doctor_probes.fail)])
    assert "the check itself ended with signal SIGSEGV" in died.finding.message
    assert "KeyError: 'a bug of the check'" in failed.finding.message
    assert {died.finding.level, failed.finding.level} == {"fault"}


def test_checks_that_are_not_asked_for_are_left_out():
    only_with_out = check(doctor_probes.talk, asked=lambda question: question.out is not None)
    assert list(examine(Question(), [only_with_out])) == []
    assert len(list(examine(Question(out="x"), [only_with_out]))) == 1
