"""What an output folder holds, for those who look at it while a run goes on or after it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.commit_log import Committed, read_commits, read_json
from wanbatch.manifests.storage.local import backend_for

RUN = "_wanbatch/run.json"


def read_note(path: str | Path, name: str) -> bytes | None:
    """A file of an output folder's `_wanbatch/`, as `OutputFolder` notes them; None if there is none.

    path: of the folder, or its URL. Raises MachineryError if it cannot be read.
    """
    place = backend_for(path)
    try:
        return place.read(f"_wanbatch/{name}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineryError(f"{path}: cannot be read ({error.strerror or error})") from error


def status(path: str | Path) -> dict[str, Any]:
    """What an output folder holds, read without its lock, so also while a run goes on.

    Args:
        path: of the folder, or its URL.
    Returns:
        `done`, `quarantined`, `failures` (error class -> count), `rows` and `pending` (None before the plan
        is noted), `units` (committed), `holder` (host, pid and since of the run that writes, or None),
        and `fingerprint`, `info`, `plan` as they were noted.
    Raises:
        UserError: if it is no output folder. MachineryError: if it cannot be reached.
    """
    place = backend_for(path)
    done = Committed()
    try:
        if not place.exists(RUN):
            raise UserError(f"{path}: is not an output folder of wanbatch (it has no {RUN})")
        run = read_json(place, RUN)
        for _, record in read_commits(place):
            done.add(record)
        holder = place.holder()
    except OSError as error:
        raise MachineryError(f"{path}: cannot be read ({error.strerror or error})") from error
    rows = run["plan"].get("rows")
    finished = len(done.made) + len(done.failed)
    return {
        "path": str(path),
        "rows": rows,
        "done": len(done.made),
        "quarantined": len(done.failed),
        "pending": None if rows is None else max(0, rows - finished),
        "failures": dict(sorted(Counter(done.failed.values()).items())),
        "units": len(done.units),
        "holder": holder,
        "fingerprint": run["fingerprint"],
        "info": run["info"],
        "plan": run["plan"],
    }
