"""The soak, shorter than by hand: `python tests/soak/hammer.py FOLDER --kills 200` is the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HAMMER = Path(__file__).parent / "hammer.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_under_a_hammer(tmp_path):
    command = [sys.executable, HAMMER, tmp_path / "soak", "--rows", "120", "--kills", "30", "--seconds", "240"]
    for _ in range(6):  # it goes on where it was
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 9:
            break
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"]["all"] >= 30
    assert found["kills"]["driver"] >= 1
    assert found["verified"] == {"made": 116, "quarantined": {"bad_image": 2, "missing_image": 1, "worker_died": 1}}
