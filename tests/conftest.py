"""Where there is no GPU, Triton interprets our kernels. It reads this when it is first imported, by torch perhaps."""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
