"""Run by test_dropped_rows.py: `wanbatch`, killed before the first file operation of a kind on a name.

    python killed_command.py < COMMANDS

COMMANDS: a JSON line for each, [EVENT, NAME, ARGUMENTS...]. EVENT: as `sys.audit` has it, like `os.rename`. NAME: a
part of a path that the operation is given. Each command has a process of its own, forked from this one, which has
imported everything once. Prints how each ended: an exit code, or minus the number of a signal.
"""

import json
import os
import signal
import sys

import pandas  # noqa: F401  pyarrow imports it on first use
import torch  # noqa: F401  as a run does
from killed_run import forked

import wanbatch.jobs.driver.run  # noqa: F401  which the command imports when it begins
from wanbatch.jobs.cli.main import main


def killed_before(event: str, name: str) -> None:
    """Let this process be killed before it does such a thing."""

    def before(done: str, arguments: tuple) -> None:
        if done == event and any(isinstance(argument, str) and name in argument for argument in arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


def command(event: str, name: str, arguments: list[str]) -> None:
    killed_before(event, name)
    main(arguments, standalone_mode=False)


if __name__ == "__main__":
    for line in sys.stdin:
        event, name, *arguments = json.loads(line)
        print(forked(command, event, name, arguments), flush=True)
