"""`wanbatch train few-step`: from the prompts of a manifest to an adapter that needs few steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.training.asked import check_batch, check_name, said_by_first, training_device, training_type
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.storage.user_files import require_place
from wanbatch.pipeline.loading.registry import ModelInfo, find
from wanbatch.pipeline.training.few_step.card import About
from wanbatch.pipeline.training.few_step.run import Listener, train_few_step
from wanbatch.pipeline.training.few_step.settings import OF_LARGE_MODELS, FewStepSettings
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.processes import joined_processes

SHOWN = 4  # prompts
FEWEST = 2  # prompts: blends take two


@dataclass(frozen=True, slots=True)
class FewStepRequest:
    """What is asked for.

    Attributes:
        manifest: Its rows have prompts; nothing else of them is used.
        name: Of the adapter.
        out: Folder of the training.
        model: See `registry.find`.
        revision: Of a hub model.
        steps: Of training, over all calls.
        minutes: Of training, over all calls, if they end first.
        width, height: Of a picture in pixels; None: the model's own.
        changed: Settings by their names that are not `OF_LARGE_MODELS` or the default ones; guidance and shift are
            the model's own.
        prompts: Of sample pictures, and of what is measured; none: some of the manifest.
        license: Of the adapter.
        author: Of the adapter.
        device: `cpu` or `cuda`; None: a GPU if there is one.
        renames: Columns of the manifest that are read as others.
    """

    manifest: str | Path
    name: str
    out: Path
    model: str
    revision: str | None = None
    steps: int = 2000
    minutes: float = math.inf
    width: int | None = None
    height: int | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    license: str | None = None
    author: str | None = None
    device: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)


def train(request: FewStepRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Check everything that can be wrong, then train; a folder with the same training is gone on with.

    Args:
        request: What is asked for.
        say: Takes lines of text.

    Returns:
        What `--json` prints: the file, the number of prompts, and what was measured.

    Raises:
        UserError: If something is wrong with what was given.
    """
    processes = joined_processes(request.device == "cpu")
    say = said_by_first(processes, say)
    found = checked(request, processes.count, say)
    info, settings, prompts, size = found.info, found.settings, found.prompts, found.size
    device = found.device if processes.state is None else processes.state.device
    count, steps = number_of(len(prompts), "prompts"), number_of(request.steps, "steps")
    say(f"{count}, {info.name}, {device.type}, {size[0]}x{size[1]}, {steps}")
    model = TrainingModel.load(info, device, training_type(info, device), settings.base_precision)
    said = {key: value for key in ("license", "author") if (value := getattr(request, key)) is not None}
    about = About(request.name, request.model, str(request.manifest), len(prompts), **said)
    quiet = not processes.first
    with tqdm(total=request.steps, desc="training", unit="step", file=sys.stderr, disable=quiet) as progress:

        def stepped(made: int, phase: str) -> None:
            progress.set_description(phase, refresh=False)
            progress.update(made - progress.n)

        file, measured = train_few_step(
            model, prompts, about, settings, Budget(request.minutes, request.steps), request.out, size=size,
            shown=tuple(request.prompts) or tuple(prompts[:SHOWN]), listener=Listener(say, stepped),
            processes=processes,
        )  # fmt: skip
    return {"file": str(file), "prompts": len(prompts), "steps": settings.main_steps, **measured.as_dict()}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a distillation that is asked for is made of.

    Attributes:
        info: The model.
        settings: All numbers.
        prompts: That are learned from.
        size: (width, height) of a picture in pixels.
        device: Where it is trained.
    """

    info: ModelInfo
    settings: FewStepSettings
    prompts: list[str]
    size: tuple[int, int]
    device: torch.device


def checked(request: FewStepRequest, count: int, say: Callable[[str], None]) -> Checked:
    """Check everything that can be wrong with what is asked for; no model is loaded.

    Args:
        request: What is asked for.
        count: Of the processes that will train together.
        say: Takes warnings.

    Raises:
        UserError: If something is wrong with it.
    """
    check_name(request.name)
    require_place(request.out, folder=True)
    info = find(request.model, request.revision)
    size = _size(request, info)
    own = {"guidance": float(info.guidance), "shift": float(info.shift)}
    if info.two_experts and "guidance" not in request.changed:
        own["guidance_2"] = float(info.guidance_2 or 0)
    settings = FewStepSettings.of({**OF_LARGE_MODELS, **own, **request.changed})
    check_batch(settings.batch, count)
    if count > 1 and math.isfinite(request.minutes):
        raise UserError(f"--minutes: {count} processes that train together end by --steps alone: drop it")
    return Checked(info, settings, _prompts(request, settings.prompts, say), size, training_device(request.device))


def _size(request: FewStepRequest, info: ModelInfo) -> tuple[int, int]:
    found = (request.width or info.width, request.height or info.height)
    for flag, pixels in zip(("--width", "--height"), found, strict=True):
        if pixels % info.multiple:
            nearest = " or ".join(map(str, info.nearest_sizes(pixels)))
            raise UserError(f"{flag} {pixels}: must be a multiple of {info.multiple} for {info.name}: {nearest}")
    return found


def _prompts(request: FewStepRequest, most: int, say: Callable[[str], None]) -> list[str]:
    """The prompts of a manifest, each once."""
    manifest = request.manifest
    rows = read_manifest(manifest, committed_rows=committed_rows, renames=request.renames).rows
    found = list(dict.fromkeys(text for text in rows["prompt"].to_pylist() if (text or "").strip()))
    if len(found) < FEWEST:
        raise UserError(
            f"{manifest}: has {len(found)} different prompts: give at least {FEWEST}, better some hundred"
        )
    if len(found) > most:
        say(
            f"warning: {manifest}: {most} of {len(found)} prompts {'is' if most == 1 else 'are'} used: --set "
            f"prompts={len(found)} takes all"
        )
    return found[:most]
