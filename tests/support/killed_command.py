"""Run by test_dropped_rows.py: `wanbatch`, killed before the first file operation of a kind on a name.

    python killed_command.py EVENT NAME ARGUMENTS...

EVENT: as `sys.audit` has it, like `os.rename`. NAME: a part of a path that the operation is given.
"""

import os
import signal
import sys

from wanbatch.jobs.cli.main import main


def killed_before(event: str, name: str) -> None:
    """Let this process be killed before it does such a thing."""

    def before(done: str, arguments: tuple) -> None:
        if done == event and any(isinstance(argument, str) and name in argument for argument in arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


if __name__ == "__main__":
    killed_before(sys.argv[1], sys.argv[2])
    main(sys.argv[3:])
