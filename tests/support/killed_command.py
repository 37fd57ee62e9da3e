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
import traceback

import pandas  # noqa: F401  pyarrow imports it on first use
import torch  # noqa: F401  as a run does

import wanbatch.jobs.driver.run  # noqa: F401  which the command imports when it begins
from wanbatch.jobs.cli.main import main


def killed_before(event: str, name: str) -> None:
    """Let this process be killed before it does such a thing."""

    def before(done: str, arguments: tuple) -> None:
        if done == event and any(isinstance(argument, str) and name in argument for argument in arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


def ended(event: str, name: str, arguments: list[str]) -> int:
    """How the command ended in a fork of this process."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            killed_before(event, name)
            main(arguments, standalone_mode=False)
            code = 0
        except BaseException:  # noqa: BLE001  a fork never goes on with what its parent does
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        event, name, *arguments = json.loads(line)
        print(ended(event, name, arguments), flush=True)
