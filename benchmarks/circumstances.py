"""Where, when and by which command something was measured, as results files say it. Needs neither Ray nor torch."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wanbatch.jobs.config.hardware import cpu_name


def circumstances(packages: Sequence[str], **hardware: Any) -> dict[str, Any]:
    """Date, command, hardware and versions.

    Args:
        packages: whose versions play a part, besides Python's.
        hardware: what else is to be said of it.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), **hardware},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def print_result(result: Mapping[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and write it to a file if one is named."""
    text = json.dumps(result, indent=1) + "\n"
    if out:
        out.write_text(text)
    print(text, end="")
