"""Ahead-of-time engines of the full-size model beside what runs today, part by part.

    python benchmarks/engines.py --part vae --out benchmarks/results/NAME.json
    python benchmarks/engines.py --part dit --part text --out benchmarks/results/NAME.json
    python benchmarks/engines.py --part onnx [--precision fp16] --out benchmarks/results/NAME.json

The first takes some four minutes on an H100 or H200; the last writes some 25 GB below the temporary folder for a
while. Random weights of Wan2.2 TI2V-5B in bf16, 1280x704 (on a CPU: of a small model of its form in fp32, 64x64).
`vae`, `text` and `dit` build an engine in each form, try it in a process of its own, load it and time it beside what
the pipeline runs: our own kernels on a GPU, the compiled modules elsewhere. `vae` also starts a process for each way,
and says when the first picture is there (`engine_start.py`); what the VAE's other ways take beside each other, in
time, memory and error, `vae.py` says. `onnx` exports all parts, checks the files and says what that takes; in fp16
also how far the parts are from the same weights in fp32. What fails is noted with its message, and the rest goes on.
The results are written after each part.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from call_times import milliseconds
from installed import installed
from torch import Tensor

from wanbatch.engines import aot, float16, graphs, onnx_export, probe, verify
from wanbatch.engines.aot_forms import Way, ways
from wanbatch.engines.graphs import Graph
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.loading.compiler import set_up_compiler, set_up_dynamo
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.random_model import random_modules
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import (
    runnable_vae,
    single_frame_text_encoder,
    single_frame_transformer,
    single_frame_vae,
)
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.umt5 import PlainUMT5
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder
from wanbatch.pipeline.text.encoder import GPU_TOKENS

PARTS = ("vae", "dit", "onnx", "text")  # the last one gives up the modules of the text encoder
STRIDE = 16
SLOTS = 4
TEXT_LENGTH = 64
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "ffn_dim": 128,
        "text_dim": 64,
    },
    "vae": {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1},
    "text": {"vocab_size": 300, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="may be repeated; default: all")
@click.option("--precision", type=click.Choice(["fp16"]), help="of --part onnx; default: bf16, on a CPU fp32")
@click.option("--folder", type=click.Path(path_type=Path), help="for what is built; default: a temporary one")
@click.option("--out", type=click.Path(path_type=Path))
@torch.no_grad()
def main(parts: tuple[str, ...], precision: str | None, folder: Path | None, out: Path | None) -> None:
    if precision is not None and parts != ("onnx",):
        raise click.UsageError("--precision fp16 is for --part onnx: other parts are timed as runs have them")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="engines-", dir=folder))
    set_up_compiler(str(own / "cache"))
    set_up_dynamo()
    dtype = torch.float16 if precision else torch.bfloat16 if gpu else torch.float32
    modules = random_modules(device, dtype, **({} if gpu else SMALL))
    if precision:
        modules = float16.prepared(replace(modules, text_encoder=_as_loaded(modules.text_encoder)))
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **installed("torch", "diffusers", "onnx")},
        "settings": {"dtype": str(dtype), "size": _size(gpu), "slots": SLOTS, "text_length": TEXT_LENGTH},
    }
    bench = Bench(modules, device, dtype, own)
    for name in [name for name in PARTS if name in (parts or PARTS)]:
        result[name] = _noted(getattr(bench, name))
        text = json.dumps(result, indent=1) + "\n"
        click.echo(json.dumps({name: result[name]}, indent=1))
        if out is not None:
            out.write_text(text, encoding="utf-8")
    shutil.rmtree(own)


class Bench:
    """Measures the parts of a model.

    Args:
        modules: The parts, on the device.
        device: Where they are.
        dtype: Of their weights.
        folder: For what is built.
    """

    def __init__(self, modules: Modules, device: torch.device, dtype: torch.dtype, folder: Path):
        self.modules, self.device, self.dtype, self.folder = modules, device, dtype, folder
        self.size = _size(device.type == "cuda")
        self.refused: dict[str, str] = {}

    def vae(self) -> dict[str, Any]:
        """Both directions of the VAE: as it runs today, compiled when first called, and ahead of time."""
        vae = single_frame_vae(self.modules.vae, self.device)
        today, how = runnable_vae(vae, Runtime(), self.device)
        found: dict[str, Any] = {}
        engines: dict[Way, dict[str, Path]] = {way: {} for way in ways(self.device.type)}
        for graph in self._vae_graphs(vae):
            example = next(iter(graph.inputs.values()))
            direction = graph.component.removeprefix("vae-")
            found[direction] = {
                "today": {"how": how, "ms": self._milliseconds(getattr(today, direction), (example,))},
                "engine": _noted(partial(self._engine, graph)),
            }
            for way, paths in engines.items():
                if "ms" in found[direction]["engine"].get(way.name, {}):
                    paths[direction] = self._path_of(graph, way)
            _tell(found)
        found["start_to_first_picture"] = {}
        starts: dict[str, dict[str, Path]] = {how: {}, "compiled, nothing kept": {}, "compiled, kept": {}}
        starts |= {f"engine, {way.name}": paths for way, paths in engines.items() if len(paths) == 2}
        for start, paths in starts.items():
            found["start_to_first_picture"][start] = _noted(partial(self._start, start, paths))
            _tell(found["start_to_first_picture"])
        return found

    def text(self) -> dict[str, Any]:
        """The text encoder: our own kernels and ahead of time."""
        rows = GPU_TOKENS // TEXT_LENGTH if self.device.type == "cuda" else 1
        graph = graphs.text_graph(PlainUMT5(self.modules.text_encoder), 0 if rows > 1 else 1, self.device)
        sizes = {graphs.LENGTH: TEXT_LENGTH, **({graphs.PROMPTS: rows} if rows > 1 else {})}
        inputs = graph.example_of(**sizes)
        eager = self._milliseconds(graph.module, inputs)
        engine = _noted(partial(self._engine, graph, inputs))
        today, how = single_frame_text_encoder(self.modules.text_encoder, self.device)
        return {
            "prompts": rows,
            "today": {"how": how, "ms": self._milliseconds(today, inputs)},
            "module_ms": eager,
            "engine": engine,
        }

    def dit(self) -> dict[str, Any]:
        """One guided evaluation of the transformer: our own kernels and ahead of time."""
        graph = self._step_graph()
        inputs = graph.example_of(**{graphs.LENGTH: TEXT_LENGTH})
        eager = self._milliseconds(graph.module, inputs)
        engine = _noted(partial(self._engine, graph, inputs))
        frame = single_frame_transformer(self.modules.transformer, Runtime(), self.device)
        height, width = graph.inputs["latents"].shape[2:]
        step = graphs.DenoisingStep(frame, height, width, self.device)
        return {
            "rows": graph.rows,
            "today": {"how": "kernels" if frame.fused else "eager", "ms": self._milliseconds(step, inputs)},
            "module_ms": eager,
            "engine": engine,
        }

    def onnx(self) -> dict[str, Any]:
        """Every part as an ONNX file: seconds, bytes, memory, and whether the checker takes it."""
        vae = single_frame_vae(self.modules.vae, self.device)
        rows = 0 if self.device.type == "cuda" else 1
        makers: dict[str, Callable[[], Graph]] = {
            "dit": self._step_graph,
            "vae-decode": lambda: self._vae_graphs(vae)[1],
            "vae-encode": lambda: self._vae_graphs(vae)[0],
            "text": lambda: graphs.text_graph(PlainUMT5(self.modules.text_encoder), rows, self.device),
        }
        found: dict[str, Any] = {}
        for name, make in makers.items():
            found[name] = _noted(partial(self._export, name, make))
            _tell({name: found[name]})
        return found

    def _export(self, name: str, make: Callable[[], Graph]) -> dict[str, Any]:
        path = self.folder / f"{name}.onnx"
        graph = make()
        found: dict[str, Any] = {}
        if self.dtype == torch.float16:
            graph = float16.called_in_float32(graph)
            found["from_fp32"] = _noted(lambda: str(verify.compare_float16(graph)))
        begin = synchronized_time(self.device)
        onnx_export.export(graph, path)
        exported = synchronized_time(self.device)
        files = onnx_export.files_of(path)
        found |= {
            "export_seconds": round(exported - begin, 1),
            "bytes": sum(one.stat().st_size for one in files),
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "checker": _noted(partial(_checked, path)),
        }
        found["check_seconds"] = round(synchronized_time(self.device) - exported, 1)
        for one in files:
            one.unlink()
        return found

    def _engine(self, graph: Graph, inputs: tuple[Tensor, ...] | None = None) -> dict[str, Any]:
        """An engine in each way; one that did not run is not tried again."""
        return {
            way.name: {"refused": self.refused[way.name]}
            if way.name in self.refused
            else _noted(partial(self._engine_of, way, graph, inputs or tuple(graph.inputs.values())))
            for way in ways(self.device.type)
        }

    def _engine_of(self, way: Way, graph: Graph, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        path = self._path_of(graph, way)
        begin = synchronized_time(self.device)
        aot.build(graph, path, way.compiler)
        built = synchronized_time(self.device)
        made = {"build_seconds": round(built - begin, 1), "bytes": path.stat().st_size}
        _tell({graph.label: {way.name: made}})
        if (failure := probe.failure_at(path, probe.description_of(graph))) is not None:
            self.refused[way.name] = failure
            return made | {"refused": failure}
        tried = synchronized_time(self.device)
        engine = aot.load(path, graph.module)
        loaded = synchronized_time(self.device)
        engine(*inputs)
        first = synchronized_time(self.device)
        wanted, found = graph.module(*inputs).float(), engine(*inputs).float()
        return made | {
            "tried_elsewhere_seconds": round(tried - built, 1),
            "load_seconds": round(loaded - tried, 3),
            "first_call_seconds": round(first - loaded, 3),
            "ms": self._milliseconds(engine, inputs),
            "relative_error": ((found - wanted).abs().max() / wanted.abs().max()).item(),
            "all_lengths": str(verify.compare(graph, engine)) if graph.open else None,
        }

    def _path_of(self, graph: Graph, way: Way) -> Path:
        return self.folder / f"{graph.component}-{list(ways(self.device.type)).index(way)}{way.suffix}"

    def _start(self, start: str, engines: dict[str, Path]) -> dict[str, Any]:
        """What `engine_start.py` says of a way."""
        how = start.partition(",")[0]
        script, cache = Path(__file__).with_name("engine_start.py"), self.folder / f"cache-{how}"
        command = [sys.executable, str(script), how, str(cache), *map(str, engines.values())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def _vae_graphs(self, vae: Any) -> Any:
        channels = self.modules.transformer.config.in_channels
        return graphs.vae_graphs(vae, self.size, STRIDE, channels, self.dtype, self.device)

    def _step_graph(self) -> Graph:
        frame = FrameTransformer(self.modules.transformer).fuse()
        return graphs.step_graph(frame, self.size, STRIDE, 2 * SLOTS, self.device)

    def _milliseconds(self, run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
        return milliseconds(lambda: run(*inputs), self.device)


def _as_loaded(encoder: Any) -> UMT5Encoder:
    """A text encoder of transformers as the pipeline loads it, with the same weights, all in the same dtype."""
    with torch.device("meta"):
        loaded = UMT5Encoder(encoder.config.to_dict())
    weights = {name: one.to(encoder.dtype) for name, one in encoder.state_dict().items()}
    loaded.load_state_dict(weights, strict=True, assign=True)
    return loaded.eval().requires_grad_(False)


def _noted(measure: Callable[[], Any]) -> Any:
    """What is measured, or why it is not: what a machine refuses is a result, too."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001  whatever a compiler may raise
        cause = error.__cause__ or error
        return {"failed": f"{error}"[:2000], "cause": f"{type(cause).__name__}: {cause}"[:2000]}


def _tell(found: dict[str, Any]) -> None:
    """Say what was found so far: the next thing may take minutes."""
    print(json.dumps(found), file=sys.stderr, flush=True)


def _checked(path: Path) -> str:
    onnx_export.check(path)
    return "passed"


def _size(gpu: bool) -> tuple[int, int]:
    return (1280, 704) if gpu else (64, 64)


if __name__ == "__main__":
    main()
