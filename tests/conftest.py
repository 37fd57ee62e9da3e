"""What must be in the environment before anything is imported.

Where there is no GPU, Triton interprets our kernels; it reads this when it is first imported, by torch perhaps. Ray's
workers are as important as the tests that wait for them, also where other tests keep all cores busy.
"""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("RAY_worker_niceness", "0")
