"""How much memory of a GPU a run needs, in each way in which the parts of its model can share it. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wanbatch.jobs.planning.plan import Plan
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import choices, form_by_config, weight_sizes, working_for

DTYPES = {"fp32": "float32"}
"""Of precisions; of all others weights outside the large layers are in bf16."""
SMALL = 1 << 30
"""Bytes of a model that fits on every GPU, of whose memory nothing need be said."""


def needed_memory(
    model: ModelInfo, plan: Plan, precision: str, slots: int, text_fp8: bool = False, merged: bool = False
) -> dict[str, int]:
    """Bytes of a GPU's memory by how the parts of the model share it, what moves least first.

    Empty if the model is a small one, or its weights are not on this machine.

    Args:
        model: which model it is.
        plan: what is made with it; its largest picture counts.
        precision: of the run, never `auto`.
        slots: rows denoised together.
        text_fp8: whether the text encoder's weights are in FP8.
        merged: whether each slot has weights of its own, so that no part may leave.
    """
    folder, eight_bits = Path(model.folder), precision in ("fp8", "int8")
    sizes = weight_sizes(folder, DTYPES.get(precision, "bfloat16"), eight_bits, text_fp8, slots if merged else 0)
    if not all(sizes.values()) or sum(sizes.values()) < SMALL or not len(plan):
        return {}
    width, height = (plan.images[name].to_numpy().astype(int) for name in ("width", "height"))
    working = working_for(folder, slots, int((width * height).max()))
    ways = choices(sizes, working)
    return {str(residency): needed for residency, needed in (ways[:1] if merged else ways)}


def transformer_form(model: ModelInfo) -> tuple[int, int, int]:
    """Blocks, width and width of the feed-forward layers of a model's transformer."""
    config: dict[str, Any] = read_json(Path(model.folder) / "transformer" / "config.json", model.name)
    form = form_by_config(config, 1)
    return form.layers, form.dim, form.inner
