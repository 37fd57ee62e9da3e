"""What may be imported on a machine that only plans: no Ray, no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "wanbatch.jobs.driver.deadlines",
    "wanbatch.jobs.driver.retry_policy",
    "wanbatch.jobs.driver.units_in_hand",
    "wanbatch.jobs.planning.preparation",
    "wanbatch.jobs.reporting.contact_sheet",
    "wanbatch.jobs.reporting.progress",
    "wanbatch.jobs.reporting.report.after_run",
    "wanbatch.jobs.reporting.run_log",
    "wanbatch.jobs.reporting.text_summary",
    "wanbatch.jobs.worker.actor",
]


@pytest.mark.parametrize("heavy", ["ray", "torch"])
def test_planning_and_deciding_import_neither_ray_nor_torch(heavy):
    code = f"import {', '.join(LIGHT)}, sys; sys.exit({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
