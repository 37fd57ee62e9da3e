"""A Ray of one's own whose agents are slower than it waits for, as on a busy machine or a slow disk."""

from __future__ import annotations

import pytest
from fault_making import require_whole

SLOW = """
import sys, time
if any(word.endswith("agent.py") or word.endswith("runtime_env/agent/main.py") for word in sys.orig_argv):
    time.sleep(25)
"""


@pytest.mark.slow
def test_agents_that_import_for_25_seconds(start_command, tmp_path):
    """Ray ends its node after 15 s where its agents are to choose their ports."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    process = start_command([{"id": "a", "prompt": "x"}], PYTHONPATH=f"{tmp_path / 'slow'}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    require_whole(tmp_path / "out", {"a"})
