"""Which model: `tiny`, a local folder in diffusers layout, or a hub id; and what its configuration says.

Only configuration files are read, and neither torch nor diffusers nor transformers is imported, so that a manifest
can be planned on any machine. `weights.py` loads the model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling.schedules import SCHEDULES

TINY = "tiny"
LONGEST_SIDE = 4096  # pixels; what a manifest may ask for, too
DEFAULTS_FILE = "wanbatch.json"
WHOLE_DIGEST_BYTES = 64 << 20  # larger weight files are identified by their size and samples

# What Wan's authors use (Wan2.2, `wan/configs/wan_ti2v_5B.py` and `shared_config.py`). A model folder may say
# otherwise in a file `wanbatch.json`.
WAN_DEFAULTS = {
    "width": 1280,
    "height": 704,
    "steps": 50,
    "guidance": 5.0,
    "negative_prompt": (
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
        "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
        "三条腿，背景人很多，倒着走"
    ),
}

# scheduler class in the model folder -> (sampler, name of its shift field)
_SAMPLERS = {
    "UniPCMultistepScheduler": ("unipc", "flow_shift"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "flow_shift"),
    "DEISMultistepScheduler": ("deis", "flow_shift"),
    "FlowMatchEulerDiscreteScheduler": ("euler", "shift"),
    "FlowMatchHeunDiscreteScheduler": ("heun", "shift"),
    "FlowMatchLCMScheduler": ("lcm", "shift"),
}


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
        UserError: If there is no such model or its files are not a Wan model in safetensors.
    """
    folder, revision = _locate(model, revision, weights)
    index = _read_json(folder / "model_index.json", f"{model} is not a model folder in diffusers layout")
    if not str(index.get("_class_name", "")).startswith("Wan"):
        raise UserError(f"{folder}/model_index.json: {index.get('_class_name')!r} is not a Wan pipeline")
    if weights:
        _check_weights(folder, index)
    vae = _read_json(folder / "vae" / "config.json", "the model has no VAE")
    transformer = _read_json(folder / "transformer" / "config.json", "the model has no transformer")
    sampler, shift, schedule = _sampler(folder)
    defaults = {**WAN_DEFAULTS, **_own_defaults(folder)}
    stride = vae.get("scale_factor_spatial", 8)
    return ModelInfo(
        name=model,
        folder=str(folder),
        revision=revision,
        digest=_digest(folder) if weights else "",
        multiple=stride * transformer.get("patch_size", [1, 2, 2])[1],
        layers=transformer.get("num_layers", 40),
        shift=shift,
        sampler=sampler,
        schedule=schedule,
        **defaults,
    )


def _locate(model: str, revision: str | None, weights: bool) -> tuple[Path, str | None]:
    folder = Path(__file__).parents[1] / "tiny" if model == TINY else Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"revision {revision}: only hub models have revisions, and {model} is none: drop it")
        return folder.resolve(), None
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UserError(
            f"no model folder {model}; give `tiny`, a folder in diffusers layout, or a hub id `owner/name`"
        )
    return _from_hub(model, revision, weights)


def _from_hub(model: str, revision: str | None, weights: bool) -> tuple[Path, str]:
    """The snapshot folder of a hub model, and the commit it is of."""
    from huggingface_hub import errors, snapshot_download

    wanted = ["*.json", "tokenizer/*"] + (["*.safetensors"] if weights else [])
    no_commit = getattr(errors, "RevisionResolutionError", errors.HfHubHTTPError)  # since huggingface_hub 2
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except (OSError, errors.HfHubHTTPError, errors.HFValidationError, no_commit) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {model} (revision {revision or 'main'}) could not be fetched: {reason}. Check the name and the "
            "network, or give the folder of a local copy"
        ) from error
    return folder, folder.name


def _check_weights(folder: Path, index: dict) -> None:
    for name in ("text_encoder", "transformer", "transformer_2", "vae"):
        if (index.get(name) or [None])[0] is not None and not list((folder / name).glob("*.safetensors")):
            raise UserError(
                f"{folder / name}: no .safetensors file: the weights are in another format, or were not downloaded"
            )


def _own_defaults(folder: Path) -> dict:
    path = folder / DEFAULTS_FILE
    if not path.exists():
        return {}
    given = {key: value for key, value in _read_json(path, "").items() if key != "name"}
    unknown = sorted(set(given) - set(WAN_DEFAULTS))
    if unknown:
        raise UserError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(WAN_DEFAULTS)}")
    return given


def _sampler(folder: Path) -> tuple[str, float, str]:
    """Sampler, shift and schedule that the folder's scheduler stands for."""
    config = _read_json(folder / "scheduler" / "scheduler_config.json", "the model has no scheduler")
    name = config.get("_class_name")
    if name not in _SAMPLERS:
        raise UserError(f"{folder}/scheduler: {name} is not known; known: {', '.join(_SAMPLERS)}")
    sampler, field = _SAMPLERS[name]
    if sampler == "unipc" and config.get("solver_order") == 3:
        sampler = "unipc3"
    schedule = next((name for name in SCHEDULES if config.get(f"use_{name}_sigmas")), "linear")
    return sampler, float(config.get(field, 1.0)), schedule


def _read_json(path: Path, otherwise: str) -> dict:
    if not path.is_file():
        raise UserError(f"{otherwise}: {path} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def _digest(folder: Path) -> str:
    """SHA-256 over the configuration and weight files; of a large weight file over its size, both ends and middle."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".json", ".safetensors"} or not path.is_file():
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
