"""How long a worker takes from the start of its process to its first picture, part by part.

    python benchmarks/start.py --folder DIR [--precision fp8 bf16] [--rounds 2] [--out benchmarks/results/NAME.json]
    python benchmarks/start.py --folder DIR --small        on a CPU, with the small model

Each start is a process of its own, and every round takes each way in turn. `before` reads the model as modules of
diffusers and transformers, as wanbatch did until this was measured; `now` as it does, `converted` from a folder that
`wanbatch convert` wrote. The model is Wan2.2 TI2V-5B at its full size with random weights, written once to DIR/model
in bf16 (23 GB, then in the page cache). The first start of all compiles the VAE into DIR/compiled and is reported as
`cold`; all others find it there. Seconds: `python` until the script runs, `torch` its import, `device` until the GPU
answers, `imports` of wanbatch, `load`, `warm_up` as workers do it (two steps of a picture of 1280x704; with its
stages), `picture` of four steps without guidance. Needs neither Ray nor pydantic. Results are written after every
start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

WAYS = ("before", "now", "converted")
PACKAGES = ("torch", "diffusers", "transformers", "safetensors")


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(_start(options)), flush=True)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": "seconds from the start of a worker's process to its first picture",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "hardware": {"cores": len(os.sched_getaffinity(0)), "cpu": _cpu()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "starts": [],
    }
    if not options.small:
        result["seconds_to_write_the_model"] = _write_model(options.folder / "model")
        for precision in options.precision if "converted" in options.ways else ():
            result[f"seconds_to_convert_to_{precision}"] = _convert(options.folder, precision)
    starts = [("now", options.precision[0], "cold"), *_rounds(options)]
    for way, precision, kind in starts:
        result["starts"].append(
            {"way": way, "precision": precision, "kind": kind, **_in_process(way, precision, options)}
        )
        print(json.dumps(result["starts"][-1]), file=sys.stderr, flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the model (23 GB) and compiled code")
    parser.add_argument("--precision", nargs="+", choices=("fp8", "bf16", "fp32"), default=["fp8", "bf16"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="the small model, on a CPU")
    parser.add_argument("--out", type=Path, help="write the result here too")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:  # it is small as it is
        options.ways = [way for way in options.ways if way != "converted"]
    return options


def _rounds(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    return [(way, one, "warm") for _ in range(options.rounds) for one in options.precision for way in options.ways]


def _write_model(folder: Path) -> float:
    """Seconds. In a process of its own, which leaves the card empty."""
    begin = time.perf_counter()
    if not (folder / "model_index.json").exists():
        command = [sys.executable, "-m", "wanbatch.pipeline.loading.random_model", str(folder)]
        subprocess.run(command, check=True)
    return round(time.perf_counter() - begin, 1)


def _convert(folder: Path, precision: str) -> float:
    """Seconds. In a process of its own, on the GPU."""
    begin = time.perf_counter()
    if not (folder / precision).exists():
        code = (
            "import sys, torch; from pathlib import Path; from wanbatch.pipeline.loading import converting, registry;"
            "model, out, precision = sys.argv[1:];"
            "converting.convert(registry.find(model), model, Path(out), precision, torch.device('cuda'))"
        )
        command = [sys.executable, "-c", code, str(folder / "model"), str(folder / precision), precision]
        subprocess.run(command, check=True)
    return round(time.perf_counter() - begin, 1)


def _in_process(way: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(options.folder), "--precision", precision, "--child", way]
    command += ["--began", str(time.time()), *(["--small"] if options.small else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"failed": done.returncode}
    return json.loads(done.stdout.strip().splitlines()[-1])


class _Laps:
    """Seconds of each part of a start."""

    def __init__(self, began: float):
        self.began = self.last = began
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.time()
        self.seconds[name], self.last = round(now - self.last, 2), now


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """Load the model, warm it up and make a picture, as a worker does."""
    laps = _Laps(options.began)
    laps.lap("python")
    import torch

    laps.lap("torch")
    cuda = torch.cuda.is_available() and not options.small
    device = torch.device("cuda" if cuda else "cpu")
    torch.zeros(1, device=device).item()
    laps.lap("device")
    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading import registry
    from wanbatch.pipeline.loading.runtime import Runtime

    if options.child == "before":
        from wanbatch.pipeline.loading import reference  # noqa: F401
    kept = "model" if options.child != "converted" else options.precision[0]
    info = registry.find("tiny" if options.small else str(options.folder / kept))
    laps.lap("imports")
    precision = options.precision[0]
    dtype = "float32" if precision == "fp32" else "bfloat16"
    runtime = Runtime(compile=cuda, fp8=precision == "fp8", compile_cache=str(options.folder / "compiled"))
    load = _as_before if options.child == "before" else Wan.load
    wan = load(info, device.type, dtype, 8 if cuda else 2, runtime)
    if cuda:
        torch.cuda.synchronize()
    laps.lap("load")
    stages = _make(wan, info, steps=2, guidance=1.0)
    laps.lap("warm_up")
    _make(wan, info, steps=4, guidance=1.0)
    laps.lap("picture")
    found = {"seconds": laps.seconds, "total": round(laps.last - laps.began, 2), "warm_up_stages": stages}
    if cuda:
        found["card"] = torch.cuda.get_device_name()
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found | {"peak_host_bytes": _peak_memory(), "modules": len(sys.modules)}


def _as_before(info: Any, device: str, dtype: str, slots: int, runtime: Any) -> Any:
    """The model through modules of diffusers and transformers."""
    import torch

    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading.compiler import set_up_compiler
    from wanbatch.pipeline.loading.reference import load_reference
    from wanbatch.pipeline.loading.weights import DTYPES

    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    where = torch.device(device)
    return Wan(load_reference(info, where, DTYPES[dtype]), where, slots, runtime)


def _make(wan: Any, info: Any, steps: int, guidance: float) -> dict[str, float]:
    """Make a picture; the seconds of its stages."""
    from wanbatch.pipeline.core.requests import Request

    size = {"width": 64, "height": 64} if info.name == "tiny" else {"width": info.width, "height": info.height}
    request = Request(
        id="first",
        prompt="a small red boat on a quiet lake",
        negative_prompt="",
        sources=(),
        creativity=1.0,
        seed=0,
        steps=steps,
        guidance=guidance,
        shift=info.shift,
        sampler="euler",
        schedule="linear",
        **size,
    )
    (result,) = wan.generate([request])
    seconds = result.seconds
    return {name: round(getattr(seconds, name), 2) for name in ("text", "denoise", "decode")}


def _peak_memory() -> int:
    """Bytes of this process, pages of files that it maps included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
