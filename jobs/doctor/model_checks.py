"""Checks of a model: whether wanbatch takes it, whether its files are here, and where caches are kept."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from wanbatch.jobs.doctor.check import Finding, Question, fault, ok, readable, warning

PARTS = ("text_encoder", "transformer", "transformer_2", "vae")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model.

    Attributes:
        model: as the user gave it.
        error: why wanbatch does not take it; empty: it does.
        revision: the commit of a hub model; None: a folder.
        folder: where its files are.
        sampler: of its scheduler.
        size: width and height of its pictures.
        missing: weight files that are not here.
        offline: whether HF_HUB_OFFLINE forbids to fetch them.
        free: bytes that are free where the hub's files are kept.
    """

    model: str
    error: str
    revision: str | None = None
    folder: str = ""
    sampler: str = ""
    size: tuple[int, int] = (0, 0)
    missing: tuple[str, ...] = ()
    offline: bool = False
    free: int = 0


def look_at_model(question: Question) -> ModelFacts:
    """Read a model's configuration, from the hub if it must be, and look for its weights."""
    from huggingface_hub import constants

    from wanbatch.errors import UserError
    from wanbatch.pipeline.loading.registry import find

    try:
        found = find(question.model, question.revision, weights=False)
        if found.revision is None:
            find(question.model, question.revision)  # a folder whose weights are missing or of another format
    except UserError as error:
        return ModelFacts(question.model, str(error))
    unreproduced = next((one.message for one in found.unreproduced), "")
    return ModelFacts(
        model=question.model,
        error=unreproduced,
        revision=found.revision,
        folder=found.folder,
        sampler=found.sampler,
        size=(found.width, found.height),
        missing=tuple(missing_weights(Path(found.folder))) if found.revision else (),
        offline=bool(constants.HF_HUB_OFFLINE),
        free=shutil.disk_usage(_first_there(Path(constants.HF_HUB_CACHE))).free,
    )


def missing_weights(folder: Path) -> list[str]:
    """The weight files of a model that are not in its folder.

    Args:
        folder: with the model's configuration.
    """
    missing = []
    index = json.loads((folder / "model_index.json").read_bytes())
    for part in PARTS:
        if not index.get(part) or index[part][0] is None:
            continue
        shards = [json.loads(file.read_bytes()) for file in (folder / part).glob("*.safetensors.index.json")]
        names = {name for shard in shards for name in shard["weight_map"].values()}
        there = {file.name for file in (folder / part).glob("*.safetensors")}
        missing += [f"{part}/{name}" for name in sorted(names - there)]
        if not names and not there:
            missing.append(f"{part}/*.safetensors")
    return missing


def judge_model(facts: ModelFacts) -> Finding:
    """Say whether a run can load the model."""
    if facts.error:
        return fault(facts.error, "give another --model, or mend what it names")
    told = f"{facts.model}, {facts.size[0]}x{facts.size[1]}, {facts.sampler}"
    if facts.revision:
        told += f", revision {facts.revision[:12]}"
    if not facts.missing:
        return ok(f"{told}, all weights are here")
    told += f": {len(facts.missing)} weight files are not in the cache yet"
    fetch = f"hf download {facts.model} --revision {facts.revision}"
    if facts.offline:
        return fault(f"{told}, and HF_HUB_OFFLINE forbids to fetch them", f"HF_HUB_OFFLINE=0 {fetch}")
    return warning(f"{told}; a run fetches them first ({readable(facts.free)} free there)", fetch)


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """Where caches are kept.

    Attributes:
        unusable: each folder that cannot be written to, with the variable that names another one, and why.
        folders: all of them.
    """

    unusable: list[tuple[str, str, str]]
    folders: list[str]


def look_at_caches(question: Question) -> CacheFacts:
    """Try to write where model files and compiled code are kept."""
    from huggingface_hub import constants

    from wanbatch.errors import UserError
    from wanbatch.pipeline.loading.runtime import default_compile_cache

    folders, unusable = {"HF_HOME": Path(constants.HF_HUB_CACHE)}, []
    try:
        folders["XDG_CACHE_HOME"] = default_compile_cache()
    except UserError:
        unusable.append(("~/.cache", "XDG_CACHE_HOME", "this user has no home folder"))
    for variable, folder in folders.items():
        try:
            with tempfile.TemporaryDirectory(dir=_first_there(folder)):
                pass
        except OSError as error:
            unusable.append((str(folder), variable, error.strerror or str(error)))
    return CacheFacts(unusable, [str(folder) for folder in folders.values()])


def judge_caches(facts: CacheFacts) -> Finding:
    """Say whether model files and compiled code can be kept for later runs."""
    if not facts.unusable:
        return ok(", ".join(facts.folders))
    told = "; ".join(f"{folder}: {why}" for folder, _, why in facts.unusable)
    variables = " ".join(f"{variable}=/a/folder/that/can/be/written" for _, variable, _ in facts.unusable)
    return warning(f"{told}: models cannot be fetched, or code is compiled anew each time", f"export {variables}")


def _first_there(path: Path) -> Path:
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
