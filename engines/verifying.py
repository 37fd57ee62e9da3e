"""Looking after a store: whether its engines compute what their modules do, and which of them nobody can use."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wanbatch.engines import aot, onnx_widening, probe, tensorrt, verify
from wanbatch.engines.building import ONNX, graph_of, loaded
from wanbatch.engines.selection import architecture_of
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import AOT, BadEngine, StoredEngine
from wanbatch.engines.tensorrt_runtime import PlanEngine
from wanbatch.errors import UserError
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import default_compile_cache
from wanbatch.pipeline.loading.weights import DTYPES

RIGHT, WRONG, NOT_RUN = "right", "wrong", "not run"


@dataclass(frozen=True, slots=True)
class Checked:
    """What verifying found of one engine.

    Attributes:
        label: The part that it stands for, or the name of its files.
        verdict: `RIGHT`, `WRONG` or `NOT_RUN`.
        words: How far it is from its module, or why it was not run.
    """

    label: str
    verdict: str
    words: str


def verify_store(store: Store, model: ModelInfo) -> Iterator[Checked]:
    """Run each engine of a model that can run on this machine, and compare it with the part that it stands for.

    Args:
        store: Where they are.
        model: Whose engines are looked at.
    """
    parts: dict[tuple[str, str], Modules] = {}
    for one in store.engines():
        if isinstance(one, BadEngine):
            yield Checked(one.name, WRONG, one.reason)
            continue
        label = f"{one.key.label} ({one.key.backend}, {one.key.dtype}, {one.key.architecture})"
        why = _why_not(one, model)
        problem = store.problem_here(one) if why is None else store.problem_of(one)
        if problem is not None:
            yield Checked(label, WRONG, problem)
        elif why is not None:
            yield Checked(label, NOT_RUN, why)
        else:
            try:
                errors = _errors_of(store, one, model, parts)
            except UserError as error:
                yield Checked(label, WRONG, str(error))
            else:
                yield Checked(label, RIGHT if errors.passed else WRONG, str(errors))


def prune_store(store: Store, models: Collection[str] | None) -> list[tuple[str, str]]:
    """Remove what nobody can use.

    Args:
        store: Where it is.
        models: Digests of the models whose engines are kept; None: of all.

    Returns:
        What was removed, and why.
    """
    removed = []
    for one in store.engines():
        why = _why_useless(store, one, models)
        if why is not None:
            store.remove(one)
            removed.append((one.name if isinstance(one, BadEngine) else one.key.name, why))
    for folder in store.abandoned_builds():
        shutil.rmtree(folder, ignore_errors=True)
        removed.append((folder.name, "is of a build that did not end"))
    removed += [(name, "is a copy that this host has not used for long") for name in store.remove_unused_copies()]
    return removed


def _why_useless(store: Store, one: StoredEngine | BadEngine, models: Collection[str] | None) -> str | None:
    if isinstance(one, BadEngine):
        return one.reason.partition(": build it again")[0]
    if (problem := store.problem_of(one)) is not None:
        return problem.partition(": build it again")[0]
    if models is not None and one.key.weights not in models:
        return "is of another model"
    if one.key.backend == AOT and one.key.version != f"torch {torch.__version__}":
        return f"is of {one.key.version}, and this is torch {torch.__version__}"
    return None


def _why_not(one: StoredEngine, model: ModelInfo) -> str | None:
    """Why an engine cannot be run here; None: it can."""
    key = one.key
    if key.weights != model.digest:
        return "is of another model: give --model the one that it was built of"
    gpu = torch.cuda.is_available()
    if key.backend == ONNX:
        most = onnx_widening.LARGEST_BYTES
        fits = key.dtype == "float32" or one.bytes <= most
        return None if fits else f"files in {key.dtype} are compared up to {most >> 30} GB, and it has more"
    if key.backend != AOT:
        if not gpu:
            return "there is no GPU here"
        (own,) = tensorrt.named((tensorrt.NATIVE,))
        known = {own, tensorrt.NATIVE}  # which plans of earlier versions say
        return (
            None if known & set(key.architecture.split(",")) else f"is for {key.architecture}, and this GPU is {own}"
        )
    if key.version != f"torch {torch.__version__}":
        return f"is of {key.version}, and this is torch {torch.__version__}"
    here = {architecture_of("cpu", (0, 0), torch.backends.cpu.get_cpu_capability())}
    if gpu:
        here.add(architecture_of("cuda", torch.cuda.get_device_capability(), ""))
    return (
        None if key.architecture in here else f"is for {key.architecture}, and this is {' and '.join(sorted(here))}"
    )


def _errors_of(
    store: Store, one: StoredEngine, model: ModelInfo, parts: dict[tuple[str, str], Modules]
) -> verify.Errors:
    key = one.key
    on_cpu = key.backend == ONNX or key.architecture.startswith("cpu")
    device = torch.device("cpu" if on_cpu else "cuda")
    if key.backend == AOT and (failure := probe.failure_at(store.path_of(one), one.notes["probe"])) is not None:
        raise UserError(f"the engine of {key.label} does not run: {failure}")
    if (device.type, key.dtype) not in parts:
        parts[device.type, key.dtype] = loaded(model, device, key.dtype_around, key.float8)
    modules = parts[device.type, key.dtype]
    graph = graph_of(modules, key.component, (key.width, key.height), key.rows, device, DTYPES[key.dtype_around])
    path = store.path_of(one)
    engine: Callable[..., Tensor]
    if key.backend == AOT:
        engine = aot.load(path, graph.module)
    elif key.backend == ONNX:
        return verify.compare_onnx(graph, path, key)
    else:
        engine = plan = PlanEngine(path, key.backend, default_compile_cache() / f"{one.digest}.tensorrt")
        errors = verify.compare(graph, engine)
        plan.keep()
        return replace(errors, gate=verify.gate_of(key))
    return verify.compare(graph, engine)
