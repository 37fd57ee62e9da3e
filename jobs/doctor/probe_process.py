"""The process of one probe: `python -m wanbatch.jobs.doctor.probe_process MODULE:NAME QUESTION` prints its facts.

Whatever else prints to standard output, of libraries or of their processes, goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from pydantic import TypeAdapter

from wanbatch.jobs.doctor.check import Question


def main(where: str, question: str) -> None:
    """Run a probe and print what it found.

    Args:
        where: the probe's module and name, with a colon between them.
        question: what the user wants to know, as JSON.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module, _, name = where.partition(":")
    facts = getattr(importlib.import_module(module), name)(Question(**json.loads(question)))
    answers.write(json.dumps(TypeAdapter(type(facts)).dump_python(facts)).encode())
    answers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
