"""Trying engines in a process of their own: what does not run on this machine ends that process, not the worker.

`python -m wanbatch.engines.probe` reads paths and descriptions of engines as JSON from its standard input, and writes
the index of each one that ran.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.engines import aot, trials
from wanbatch.engines.aot_package import CHECK_INPUTS
from wanbatch.engines.exporting import dtype_name, first_line, tensor_forms
from wanbatch.engines.graphs import Graph
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import StoredEngine
from wanbatch.errors import UserError

SECONDS = 300
DID_NOT_RUN = "did not run: "  # begins the line in which the other process says why


def description_of(graph: Graph) -> dict[str, Any]:
    """What a probe needs to know to run an engine of a graph, as JSON values: inputs, and tensors of the model."""
    device = next(iter(graph.inputs.values())).device.type
    examples = [[list(one.shape), list(one.stride()), dtype_name(one.dtype)] for one in graph.inputs.values()]
    return {"device": device, "examples": examples, "tensors": tensor_forms(graph)}


def failure_of(store: Store, engines: Sequence[StoredEngine], seconds: float = SECONDS) -> str | None:
    """Run engines in another process, on weights of the right sizes; those that ran on this host before are not run.

    Args:
        store: Where they are.
        engines: With a `probe` in their notes, see `description_of`.
        seconds: How long it may take, at most.

    Returns:
        What does not run here, and how it ended; None: all of them run.
    """
    engines = trials.untried(engines)
    if not engines:
        return None
    asked = [{"path": str(store.path_of(one)), **one.notes["probe"]} for one in engines]
    ran, failure = _run_elsewhere(asked, seconds)
    trials.note(engines[:ran])
    if failure is None:
        return None
    which = engines[ran].key.label if ran < len(engines) else "the last one"
    return f"the engine of {which} does not run: {failure}"


def failure_at(path: Path, description: dict[str, Any], seconds: float = SECONDS) -> str | None:
    """As `failure_of`, for the file of one engine that is in no store yet.

    Args:
        path: Of the engine.
        description: See `description_of`.
        seconds: How long it may take, at most.
    """
    return _run_elsewhere([{"path": str(path), **description}], seconds)[1]


def _run_elsewhere(asked: Sequence[dict[str, Any]], seconds: float) -> tuple[int, str | None]:
    """How many engines ran in another process, and how it failed; None: it did not."""
    command = [sys.executable, "-m", "wanbatch.engines.probe"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, CHECK_INPUTS: "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        ran = len((error.stdout or b"").split())
        return ran, f"it did not end within {seconds:g} s"
    return len(done.stdout.split()), None if done.returncode == 0 else _end_of(done)


def _end_of(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = [line.removeprefix(DID_NOT_RUN) for line in lines if line.startswith(DID_NOT_RUN)] or lines[-1:]
    if not said:
        return f"its process ended with {done.returncode}"
    # where a package's own library says what was wrong, if PyTorch says no more than that a call of it failed
    library = next((line for line in lines if line.startswith("Error: ")), "").removeprefix("Error: ")
    return said[0] if library in said[0] else f"{said[0]}: {library}"


def _run_once(asked: dict[str, Any]) -> None:
    device = torch.device(asked["device"])
    tensors = {name: zeros_of(form, device) for name, form in asked["tensors"].items()}
    inputs = [
        torch.empty_strided(size, stride, dtype=getattr(torch, dtype), device=device).fill_(1)
        for size, stride, dtype in asked["examples"]
    ]
    with torch.inference_mode():
        aot.load_onto(asked["path"], tensors)(*inputs)
    if device.type == "cuda":
        torch.cuda.synchronize()


def zeros_of(form: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of zeros that lies in memory as one of a model does.

    Args:
        form: Its size, dtype and strides, see `exporting.tensor_forms`; engines that were built before strides were
            noted are of tensors with plain ones.
        device: Where it goes.
    """
    size, dtype, *strides = form
    if not strides or 0 in size:
        return torch.zeros(size, dtype=getattr(torch, dtype), device=device)
    places = 1 + sum((many - 1) * step for many, step in zip(size, strides[0], strict=True))
    return torch.zeros(places, dtype=getattr(torch, dtype), device=device).as_strided(size, strides[0])


def main() -> None:
    """Run each engine that is asked for, in turn."""
    torch.set_num_threads(1)
    for index, asked in enumerate(json.load(sys.stdin)):
        try:
            _run_once(asked)
        except UserError as error:
            sys.exit(f"{DID_NOT_RUN}{error}")
        except Exception as error:  # noqa: BLE001  whatever an engine may raise
            sys.exit(f"{DID_NOT_RUN}{type(error).__name__}: {first_line(error)}")
        print(index, flush=True)


if __name__ == "__main__":
    main()
