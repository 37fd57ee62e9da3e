"""Run by test_ledger.py under a tracer that kills it or lets its disk fail: writes rows into a ledger, one by one.

    python ledger_writer.py FOLDER COUNT

Prints the number of each row once it is on the disk. A ledger that cannot be written ends it with 75.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wanbatch.errors import WanbatchError
from wanbatch.jobs.schedule.ledger import Ledger, Seen, Tick

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int) -> Tick:
    """A row, and one that depends on it: both are there or none is."""
    return Tick("nightly", FIRST + timedelta(hours=number), "ran", f"row {number}", FIRST)


def work(folder: Path, count: int) -> None:
    ledger = Ledger(folder)
    for number in range(count):
        if not ledger.find("nightly", [row(number).time]):
            with ledger.changes():
                ledger.write([row(number)])
                ledger.see("nightly", Seen(row(number).time, "0 * * * *", "UTC"))
        os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]), int(sys.argv[2]))
    except WanbatchError as error:
        os.write(2, f"{error}\n".encode())
        sys.exit(error.exit_code)
