"""What holds for a model where a row does not say: what its folder says, else what its authors use. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.model_form import FAST_WAN, ModelForm
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS

DEFAULTS_FILE = "wanbatch.json"

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

# The same of A14B (`wan_t2v_A14B.py`), whose guidance is weaker for the second expert, at low noise levels.
A14B_DEFAULTS = {**WAN_DEFAULTS, "height": 720, "steps": 40, "guidance": 4.0, "guidance_2": 3.0}

# The same of FastWan, which is distilled: three noise levels without guidance, and fresh noise after each
# (FastVideo, `DmdDenoisingStage`).
FAST_WAN_DEFAULTS = {**WAN_DEFAULTS, "guidance": 1.0, "sampler": "lcm", "sigmas": (1.0, 0.757, 0.522)}

SCHEDULE = ("steps", "shift", "schedule")  # which explicit noise levels replace
OWN = ("sampler", "schedule", "shift", "sigmas")
"""Fields that stand for the folder's scheduler."""


def model_defaults(folder: Path, form: ModelForm) -> dict[str, Any]:
    """What holds where a row does not say, by the names of `ModelInfo`; of `OWN` what is said.

    Args:
        folder: Of the model.
        form: What its configuration says of it.

    Raises:
        UserError: If a field of the folder's file is unknown or cannot be.
    """
    published = (
        A14B_DEFAULTS if form.two_experts else FAST_WAN_DEFAULTS if form.pipeline == FAST_WAN else WAN_DEFAULTS
    )
    path = folder / DEFAULTS_FILE
    given = {}
    if path.exists():
        given = {key: value for key, value in read_json(path, "").items() if key != "name"}
        _check(path, given, form, (*dict.fromkeys((*published, *OWN)),))
    if "guidance" in given:
        published = {**published, "guidance_2": None}  # of the authors' guidance
    if set(given) & set(SCHEDULE):
        published = {name: value for name, value in published.items() if name != "sigmas"}
    found = {**published, **given}
    if found.get("sigmas") is not None:
        found["sigmas"] = tuple(map(float, found["sigmas"]))
        found["steps"] = len(found["sigmas"])
    return found


def _check(path: Path, given: dict[str, Any], form: ModelForm, known: tuple[str, ...]) -> None:
    """Check the fields of a folder's file."""
    for name in given:
        if name not in known:
            raise UserError(f"{path}: unknown field {name!r}; known: {', '.join(known)}")
    for name in ("width", "height"):
        if name in given and (not isinstance(given[name], int) or given[name] % form.multiple or given[name] <= 0):
            raise UserError(
                f"{path}: {name} is {given[name]!r}: must be a multiple of {form.multiple} for this model"
            )
    for name, names in (("sampler", SOLVERS), ("schedule", SCHEDULES)):
        if name in given and given[name] not in names:
            raise UserError(f"{path}: {name} is {given[name]!r}: must be one of {', '.join(names)}")
    if "sigmas" in given:
        if not _falls(given["sigmas"]):
            raise UserError(f"{path}: sigmas must be falling noise levels from 1 to above 0, like [1, 0.757, 0.522]")
        if both := [name for name in SCHEDULE if name in given]:
            raise UserError(f"{path}: sigmas say every noise level, and {both[0]} too: drop one of the two")


def _falls(levels: object) -> bool:
    """Whether these are noise levels from 1 down, the final 0 left out."""
    if not isinstance(levels, list) or not levels or not all(type(level) in (int, float) for level in levels):
        return False
    return all(above > level > 0 for above, level in zip([1.0 + 1e-9, *levels], levels, strict=False))
