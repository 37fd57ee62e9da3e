"""How fast the weights of a model can be read here, and what the reader of a start makes of it.

    python benchmarks/reading.py --folder DIR [--seconds 1.2] [--out benchmarks/results/NAME.json]
    python benchmarks/reading.py --folder DIR --small        on a CPU, with the small model

DIR/model is Wan2.2 TI2V-5B at its full size with random weights (23 GB), the same as of `benchmarks/start.py`; it is
written if it is not there. Three kinds of lines are printed, and written to the file, as they come:

- `plain`: GB/s of one way of reading or copying, each tried for `--seconds`: `os.preadv` by threads into pageable and
  into pinned memory in pieces of several sizes, past the page cache (`O_DIRECT`), a mapped file and a copy of it, and
  copies to the GPU alone; seconds of locking a GiB, and of allocating 100 times 44 MB on the GPU. `cached` is the
  share of the model's files that the page cache holds.
- `load`: seconds of `Wan.load` in a process of its own, of its parts, and, added up over all reading threads, of
  reading, of waiting for the GPU's copies and of making blocks ready. `discarded` is the same reader without the GPU:
  what it has read stays where it is. With `compiler beside` the compiler is imported while weights are read, as it
  was before the VAE had kernels of its own.
- `torch`: seconds of opening its libraries, and of its import after that.

Needs neither Ray nor pydantic.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plain_reading import MIB, memory_of, plain, timed

LOADS: dict[str, dict[str, Any]] = {
    "now": {},
    "compiler beside": {"beside": True},
    "pieces of 32 MiB": {"piece": 32 * MIB},
    "16 threads": {"threads": 16},
    "discarded": {"discarded": True},
}
USUAL = ("now", "compiler beside", "discarded")


def main() -> None:
    options = _options()
    if options.child == "plain":
        for found in plain(options.folder / "model", options.seconds, options.small):
            print(json.dumps(found), flush=True)
        return
    if options.child == "torch":
        print(json.dumps(torch_in_parts()), flush=True)
        return
    if options.child:
        print(json.dumps(load(options.child, options)), flush=True)
        return
    import torch
    from circumstances import circumstances

    options.folder.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result: dict[str, Any] = {"what": "reading of a model's weights", **circumstances(("torch",), gpu=card)}
    result["seconds_to_write_the_model"] = _write_model(options.folder / "model", options.small)
    for child in ("torch", "plain", *options.loads):
        for found in _lines_of(child, options):
            result.setdefault(child if child in ("torch", "plain") else "loads", []).append(found)
            print(json.dumps(found), flush=True)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the model (23 GB)")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each way of plain reading")
    parser.add_argument("--loads", nargs="*", choices=list(LOADS), default=list(USUAL))
    parser.add_argument("--small", action="store_true", help="the small model, on a CPU")
    parser.add_argument("--out", type=Path, help="write the result here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _lines_of(child: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    command = [sys.executable, __file__, "--folder", str(options.folder), "--seconds", str(options.seconds)]
    command += ["--child", child, "--began", str(time.time()), *(["--small"] if options.small else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                yield json.loads(line)
    if process.returncode:
        yield {"what": child, "failed": process.returncode}


def _write_model(folder: Path, small: bool) -> float:
    """Seconds. In a process of its own, which leaves the card empty."""
    begin = time.perf_counter()
    if small and not folder.exists():
        from wanbatch.pipeline.loading.registry import find

        folder.symlink_to(find("tiny").folder)
    if not (folder / "model_index.json").exists():
        subprocess.run([sys.executable, "-m", "wanbatch.pipeline.loading.random_model", str(folder)], check=True)
    return round(time.perf_counter() - begin, 1)


def torch_in_parts() -> dict[str, Any]:
    """Seconds of opening torch's libraries, and of its import after that."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    opened: dict[str, float] = {}
    for name in ("global_deps", "cpu", "cuda", "python"):
        path = folder / f"libtorch_{name}.so"
        mode = ctypes.RTLD_GLOBAL if name == "global_deps" else ctypes.DEFAULT_MODE
        if path.exists():
            opened[path.name] = timed(partial(ctypes.CDLL, str(path), mode=mode))
    return {"what": "torch", "libraries": opened, "import, afterwards": timed(lambda: __import__("torch"))}


class _Sums:
    """Seconds by name, added up over threads."""

    def __init__(self) -> None:
        self._lock, self.seconds = threading.Lock(), dict[str, float]()

    def add(self, name: str, begin: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, begin)


def load(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Load the model in this process; seconds of its parts."""
    chosen = LOADS[name]
    laps = {"python": round(time.time() - options.began, 3)}
    laps["torch"] = timed(lambda: __import__("torch"))
    import torch

    cuda = torch.cuda.is_available() and not options.small
    device = "cuda" if cuda else "cpu"
    laps["device"] = timed(lambda: torch.zeros(1, device=device).item())
    laps["imports"] = timed(lambda: __import__("wanbatch.pipeline.generate"))
    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading import registry
    from wanbatch.pipeline.loading.compiler import set_up_dynamo
    from wanbatch.pipeline.loading.runtime import Runtime

    sums, folder, cache = _Sums(), options.folder / "model", str(options.folder / "compiled")
    _watch(sums, chosen)
    found: list[Any] = []
    laps["find"] = timed(lambda: found.append(registry.find(str(folder))))
    runtime = Runtime(compile=cuda, fp8=cuda, compile_cache=cache)

    def whole() -> None:
        with ThreadPoolExecutor(1) as pool:
            imported = pool.submit(set_up_dynamo) if chosen.get("beside") else None
            with suppress(_EnoughError):
                Wan.load(found[0], device, "bfloat16" if cuda else "float32", 8, runtime)
            if cuda:
                torch.cuda.synchronize()
            if imported is not None:
                imported.result()

    laps["load"] = timed(whole)
    laps["compiler's import, afterwards"] = timed(set_up_dynamo)
    added_up = {key: round(value, 2) for key, value in sums.seconds.items()}
    return {"what": "load", "way": name, "seconds": laps, "added_up": added_up}


class _EnoughError(Exception):
    """The parts are read, and there is no model to be made of them."""


def _watch(sums: _Sums, chosen: dict[str, Any]) -> None:
    """Time the parts of the reader, and change it as chosen, for the rest of this process."""
    from wanbatch.pipeline import generate
    from wanbatch.pipeline.loading import weight_files, weights

    weight_files.MOST_THREADS = chosen.get("threads", weight_files.MOST_THREADS)
    weight_files.PIECE_BYTES = chosen.get("piece", weight_files.PIECE_BYTES)
    reader: Any = weight_files.WeightReader
    for owner, name, what in (
        (reader, "_read_piece", "reading"),
        (reader, "read", "reader in all"),
        (weight_files, "_staging", "locking memory"),
        (generate, "check_precision", "check of the precision"),
        (generate.Wan, "__init__", "what is made of the parts"),
    ):
        setattr(owner, name, _timed_calls(getattr(owner, name), sums, what))
    fill, discarded = weights.fill, bool(chosen.get("discarded"))

    def timed_fill(module: Any, stored: Any, how: Any) -> None:
        with sums.of(type(module).__name__):
            if discarded:
                _discard(module, stored, how)
            else:
                fill(module, stored, replace(how, done=_timed_calls(how.done, sums, "making ready")))

    weights.fill = timed_fill
    if discarded:
        weights._vae = lambda to: None  # type: ignore[assignment,return-value]
        generate.Wan.__init__ = _enough  # type: ignore[method-assign]


def _timed_calls(call: Callable[..., Any], sums: _Sums, what: str) -> Callable[..., Any]:
    def timed(*given: Any) -> Any:
        with sums.of(what):
            return call(*given)

    return timed


def _enough(*given: Any) -> None:
    raise _EnoughError


def _discard(module: Any, stored: Any, how: Any) -> None:
    """Read what a module wants into the reading threads' own memory, and leave it there."""
    import torch

    from wanbatch.pipeline.loading.filling import kept_tensors
    from wanbatch.pipeline.loading.weight_files import PIECE_BYTES, WeightReader, reading_threads

    names = [how.other_names.get(name, name) if name not in stored else name for name in kept_tensors(module)]
    reader, of_thread = WeightReader(torch.device("cpu")), threading.local()

    def read(name: str) -> None:
        tensor = stored[name]
        size = tensor.dtype.itemsize * math.prod(tensor.shape)
        if not hasattr(of_thread, "memory"):
            kind = "pinned" if torch.cuda.is_available() else "pageable"
            of_thread.memory = memory_of(kind, PIECE_BYTES).numpy().data
        for begin in range(0, size, PIECE_BYTES):
            reader._read_piece(tensor, begin, of_thread.memory[: min(PIECE_BYTES, size - begin)])

    with ThreadPoolExecutor(reading_threads()) as pool:
        list(pool.map(read, [name for name in names if name in stored]))
    reader.close()


if __name__ == "__main__":
    main()
