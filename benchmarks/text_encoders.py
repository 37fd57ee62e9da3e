"""UMT5-XXL by every way that there is of running it: the module, compiled, our own kernels, and as an engine.

    python benchmarks/text_encoders.py --out benchmarks/results/NAME.json

Some three minutes on an H100 or H200. Random weights of Wan2.2 TI2V-5B's text encoder in bf16 (on a CPU: of a small
one in fp32). Each way runs one prompt of 512 places, as diffusers pads it; one of 64 places; and 64 prompts of 64
places. An engine that the machine does not take is noted with its reason: those of `aot` are tried in a process of
their own, which may end instead of this one. The results are written after each way.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from call_times import seconds_of
from installed import installed
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from wanbatch.engines import aot, graphs, probe, tensorrt
from wanbatch.engines.aot_forms import FormsHere
from wanbatch.errors import UserError
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.loading.random_model import TEXT
from wanbatch.pipeline.loading.single_frame import single_frame_text_encoder
from wanbatch.pipeline.models.umt5 import PlainUMT5

SHAPES = {"1 prompt of 512": (1, 512), "1 prompt of 64": (1, 64), "64 prompts of 64": (64, 64)}
SMALL = {"vocab_size": 300, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4}


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path))
@torch.no_grad()
def main(out: Path | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **installed("torch", "transformers")},
        "what": "milliseconds of a batch; the median of ten",
    }
    model = _model(device, torch.bfloat16 if gpu else torch.float32)
    plain = PlainUMT5(model)
    ways: dict[str, Callable[[], Any]] = {
        "module": lambda: _timed(plain, device),
        "aot": lambda: _engine(plain, device),
        "onnxruntime": lambda: _onnxruntime(gpu),
        "tensorrt": lambda: _tensorrt("tensorrt"),
        "tensorrt-rtx": lambda: _tensorrt(tensorrt.RTX),
        "compiled": lambda: _timed(torch.compile(plain, dynamic=False), device),
        "today": lambda: _today(model, device),  # gives up the modules of the text encoder
    }
    for name, way in ways.items():
        begin = synchronized_time(device)
        try:
            result[name] = way()
        except Exception as error:  # noqa: BLE001  whatever a compiler may raise
            result[name] = {"failed": f"{type(error).__name__}: {error}"[:1000]}
        took = round(synchronized_time(device) - begin, 1)
        print(json.dumps({name: result[name], "seconds": took}), file=sys.stderr, flush=True)
        if out is not None:
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def _model(device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            changed = {} if device.type == "cuda" else SMALL
            return UMT5EncoderModel(UMT5Config(**TEXT | changed)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def _timed(run: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> dict[str, Any]:
    """Milliseconds of each shape, and seconds of the first call, which may compile."""
    return {name: _timed_one(run, shape, device) for name, shape in SHAPES.items()}


def _today(model: UMT5EncoderModel, device: torch.device) -> dict[str, Any]:
    today, how = single_frame_text_encoder(model, device)
    return {"how": how, **_timed(today, device)}


def _engine(plain: PlainUMT5, device: torch.device) -> dict[str, Any]:
    """The first way of building an engine that gives one which runs here."""
    forms = FormsHere()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows, name in ((1, "1 prompt of 64"), (0, "64 prompts of 64")):
            graph = graphs.text_graph(plain, rows, device)
            begin = synchronized_time(device)
            path = forms.build(graph, Path(folder), f"text-{rows}", probe.description_of(graph))
            built = synchronized_time(device) - begin
            engine = aot.load(path, graph.module)
            timed = _timed_one(engine, SHAPES[name], device)
            found[name] = {"form": aot.form_of(path), **timed, "build_and_trial_seconds": round(built, 1)}
    return found | {"refused": forms.refused}


def _timed_one(run: Callable[..., Tensor], shape: tuple[int, int], device: torch.device) -> dict[str, float]:
    tokens = torch.arange(shape[0] * shape[1], device=device).view(shape) % 61 + 2
    mask = torch.ones_like(tokens)
    first, times = seconds_of(lambda: run(tokens, mask), device)
    return {"ms": round(statistics.median(times) * 1000, 3), "first_seconds": round(first, 2)}


def _onnxruntime(gpu: bool) -> dict[str, Any]:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if gpu and "CUDAExecutionProvider" not in there:
        return {"failed": f"onnxruntime {onnxruntime.__version__} here runs on {', '.join(there)} alone"}
    return {"providers": there}


def _tensorrt(backend: str) -> dict[str, Any]:
    try:
        tensorrt.require(backend, [tensorrt.NATIVE])
    except UserError as error:
        return {"failed": str(error)}
    return {"version": tensorrt.version(backend)}


if __name__ == "__main__":
    main()
