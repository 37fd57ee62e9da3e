"""Which model: `tiny`, a local folder in diffusers layout, or a hub id; and what its configuration says.

Only configuration files are read, and neither torch nor diffusers nor transformers is imported, so that a manifest
can be planned on any machine. `weights.py` loads the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.converted import CONVERTED_FILE, Converted, read_converted
from wanbatch.pipeline.loading.defaults import OWN, model_defaults
from wanbatch.pipeline.loading.hub import fetching
from wanbatch.pipeline.loading.model_form import CLASSES, ModelForm, read_form
from wanbatch.pipeline.loading.scheduler import Unreproduced, read_scheduler
from wanbatch.suggestions import did_you_mean

TINY = "tiny"
LONGEST_SIDE = 4096  # pixels; what a manifest may ask for, too
ADAPTERS = "adapters"  # the folder of a model's folder with the adapters that come with it
SOUND = "sound"  # where a model has a sound adapter of its own
WHOLE_DIGEST_BYTES = 64 << 20  # larger weight files are identified by their size and samples


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is and what it does when a row does not say.

    Attributes:
        name: As the user gave it.
        folder: Where its files are.
        revision: The commit of a hub model; None for a folder.
        digest: Identifies configuration and weights; empty if the weights are not here yet.
        width: Of a picture, in pixels.
        height: Of a picture, in pixels.
        multiple: What width and height must be multiples of.
        layers: Blocks of the transformer.
        steps: Of the schedule.
        guidance: Classifier-free guidance scale; 1 turns guidance off.
        shift: Of the schedule.
        sampler: Name of the solver.
        schedule: Name of the schedule.
        negative_prompt: What guidance leads away from.
        sigmas: Its own noise levels, the final 0 left out, in place of `steps`, `shift` and `schedule`; None: there
            are none.
        guidance_2: Guidance scale of the second expert; None: the same, or there is none.
        two_experts: Whether a second transformer takes the low noise levels (A14B).
        unreproduced: What of the model's scheduler `sampler` and `schedule` do not reproduce.
        converted: How it was converted, if it was; its digest is then that of the model that it was made of.
    """

    name: str
    folder: str
    revision: str | None
    digest: str
    width: int
    height: int
    multiple: int
    layers: int
    steps: int
    guidance: float
    shift: float
    sampler: str
    schedule: str
    negative_prompt: str
    guidance_2: float | None = None
    sigmas: tuple[float, ...] | None = None
    two_experts: bool = False
    unreproduced: tuple[Unreproduced, ...] = ()
    converted: Converted | None = None

    def check_scheduler(self, given: Collection[str] = ()) -> None:
        """Check that the model's own scheduler is reproduced, or not used.

        Args:
            given: Which of `sampler` and `schedule` are given, so that the model's own is not used.

        Raises:
            UserError: If pictures would be other ones than diffusers makes with the scheduler.
        """
        for one in self.unreproduced:
            if not set(one.decides) <= set(given):
                raise UserError(one.message)

    def nearest_sizes(self, pixels: int) -> tuple[int, ...]:
        """The one or two sides that the model can make next to a wanted one, in pixels."""
        below = pixels // self.multiple * self.multiple
        most = LONGEST_SIDE // self.multiple * self.multiple
        return tuple(sorted({min(max(side, self.multiple), most) for side in (below, below + self.multiple)}))

    def fitting_size(self, columns: int, rows: int, area: int) -> tuple[int, int]:
        """(width, height) that the model can make, of about `area` pixels with a picture's aspect ratio.

        Neither is longer than `LONGEST_SIDE`, however flat the picture is.
        """
        ratio = columns / rows
        return self._side((area * ratio) ** 0.5), self._side((area / ratio) ** 0.5)

    def _side(self, pixels: float) -> int:
        return min(max(1, round(pixels / self.multiple)), LONGEST_SIDE // self.multiple) * self.multiple


def find(model: str = TINY, revision: str | None = None, weights: bool = True) -> ModelInfo:
    """Locate a model and read its configuration.

    Args:
        model: `tiny`, a folder, or a hub id such as `Wan-AI/Wan2.2-TI2V-5B-Diffusers`.
        revision: Of a hub model; None for its main one.
        weights: Whether to fetch the weights of a hub model, too; False fetches the configuration alone.

    Raises:
        UserError: If there is no such model, it makes no single pictures from text, or its weights are not in
            safetensors. Configuration files are checked before weights are fetched.
    """
    folder, commit = _locate(model, revision)
    form, scheduler = read_form(folder, model), read_scheduler(folder)
    defaults, converted = model_defaults(folder, form), read_converted(folder)
    if weights:
        if commit is not None:
            folder, _ = from_hub(model, commit, weights=True)
        _check_weights(folder, form)
    return ModelInfo(
        name=model,
        folder=str(folder),
        revision=commit,
        digest=_checked_digest(folder, converted) if weights else "",
        multiple=form.multiple,
        layers=form.layers,
        two_experts=form.two_experts,
        unreproduced=scheduler.unreproduced_but(_said(defaults)),
        converted=converted,
        **{"shift": scheduler.shift, "sampler": scheduler.sampler, "schedule": scheduler.schedule, **defaults},
    )


def _said(defaults: Mapping[str, Any]) -> set[str]:
    """Which parts of a scheduler a model's own defaults stand for."""
    return {"schedule" if name == "sigmas" else name for name in OWN if defaults.get(name) is not None}


def _locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder with a model's configuration, and the commit that it is of, for a hub model."""
    folder = Path(__file__).parents[1] / "tiny" if model == TINY else Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"revision {revision}: only hub models have revisions, and {model} is none: drop it")
        return folder.resolve(), None
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UserError(
            f"no model folder {model}; give `tiny`, a folder in diffusers layout, or a hub id `owner/name`"
            f"{did_you_mean(model, [TINY])}"
        )
    return from_hub(model, revision, weights=False)


def from_hub(model: str, revision: str | None, weights: bool, more: tuple[str, ...] = ()) -> tuple[Path, str]:
    """The snapshot folder of a hub model, and the commit it is of. more: patterns of files that are needed, too."""
    from huggingface_hub import snapshot_download

    with fetching("model", model, revision, "folder"):
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*patterns_of(weights), *more]))
    return folder, folder.name


def patterns_of(weights: bool) -> list[str]:
    """Patterns of a hub model's files that are needed. weights: whether these are."""
    return ["*.json", "tokenizer/*", *(["*.safetensors"] if weights else [])]


def cached_of_hub(model: str, revision: str) -> str | None:
    """The folder of a hub model's snapshot with its weights in the cache of this host, without a word to the hub.

    Args:
        model: its hub id.
        revision: its commit.

    Returns:
        None: it is not there, or not all of it.
    """
    from huggingface_hub import snapshot_download

    try:  # without patterns it has to be the whole repository, since huggingface_hub 2
        return snapshot_download(model, revision=revision, allow_patterns=patterns_of(True), local_files_only=True)
    except (OSError, ValueError):
        return None


def _check_weights(folder: Path, form: ModelForm) -> None:
    for name in CLASSES:
        if (name != "transformer_2" or form.two_experts) and not list((folder / name).glob("*.safetensors")):
            raise UserError(
                f"{folder / name}: no .safetensors file: the weights are in another format, or were not downloaded"
            )


def _checked_digest(folder: Path, converted: Converted | None) -> str:
    """What identifies a model: a converted one, whose files are as they were written, by what it was made of."""
    found = files_digest(folder)
    if converted is None:
        return found
    if found != converted.digest:
        raise UserError(f"{folder}: was changed since it was converted of {converted.source}: convert that again")
    return converted.source_digest


def files_digest(folder: Path) -> str:
    """SHA-256 over the configuration and weight files; of a large weight file over its size, both ends and middle.

    Adapters that come with a model are no part of it: each has a digest of its own.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".json", ".safetensors"} or not path.is_file() or path.name == CONVERTED_FILE:
            continue
        if any(path.is_relative_to(folder / name) for name in (ADAPTERS, SOUND)):
            continue
        size = path.stat().st_size
        total.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_DIGEST_BYTES:
                total.update(file.read())
                continue
            for start in (0, size // 2, size - (1 << 20)):
                file.seek(start)
                total.update(file.read(1 << 20))
    return total.hexdigest()
