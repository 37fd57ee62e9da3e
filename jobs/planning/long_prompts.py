"""Prompts with more tokens than the model reads: what comes after has no effect, and nothing else would say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.columns import RARE
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.token_counter import TokenCounter

CUT = {"prompt": "prompt_tokens_cut", "negative_prompt": "negative_prompt_tokens_cut"}
ROWS_SHOWN = 5

assert set(CUT.values()) <= set(RARE)


def with_long_prompts(plan: Plan, model: ModelInfo) -> Plan:
    """The plan with how many tokens of its prompts the model does not read, and a warning if there are any.

    Negative prompts count where guidance uses them.

    Raises:
        UserError: The model's tokenizer is damaged.
    """
    images, warnings = plan.images, list(plan.warnings)
    counter = TokenCounter(model.folder)
    guided = pc.greater(images["guidance"], 1)
    for column, cut in CUT.items():
        used = images[column] if column == "prompt" else pc.if_else(guided, images[column], None)
        distinct = used.combine_chunks().dictionary_encode()
        prompts = distinct.dictionary.to_pylist()
        longer = counter.longer_than_read(prompts)
        of_distinct = pa.array([longer.get(prompt) for prompt in prompts], pa.int32())
        tokens = of_distinct.take(distinct.indices)
        warnings += _warnings(plan, column, tokens, model.name, counter.can_count)
        if counter.can_count:
            images = images.set_column(images.schema.get_field_index(cut), cut, tokens)
    return replace(plan, images=images, warnings=tuple(warnings)).with_used_later()


def notes_on_long_prompts(plan: Plan) -> tuple[str, ...]:
    """How many images the model read only a part of the prompt for, for the dataset card."""
    counts = {column: len(plan) - plan.images[cut].null_count for column, cut in CUT.items()}
    return tuple(
        f"Of the {column.replace('_', ' ')} of {count} images the model read only the first {TEXT_TOKENS} tokens; "
        f"see `{CUT[column]}`"
        for column, count in counts.items()
        if count and CUT[column] in plan.later
    )


def _warnings(plan: Plan, column: str, tokens: pa.Array, model: str, counted: bool) -> Iterator[str]:
    found = np.flatnonzero(pc.is_valid(tokens))
    rows, first = np.unique(plan.images["row"].to_numpy()[found], return_index=True)
    if not len(rows):
        return
    shown = []
    for row, index in zip(rows[:ROWS_SHOWN].tolist(), found[first].tolist(), strict=False):
        count = f" ({tokens[index].as_py() + TEXT_TOKENS} tokens)" if counted else ""
        shown.append(plan.manifest.row(row).location + count)
    places = ", ".join(shown) + (f" and {len(rows) - len(shown)} more" if len(rows) > len(shown) else "")
    name = column.replace("_", " ")
    which = f"{len(rows)} {name}s are" if len(rows) > 1 else f"1 {name} is"
    if counted:
        yield (
            f"{which} longer than the {TEXT_TOKENS} tokens that model {model} reads, and the rest has no effect: "
            f"{places}. Shorten what you can; the dataset's column {CUT[column]} says by how much"
        )
    else:
        yield (
            f"{which} perhaps longer than the {TEXT_TOKENS} tokens that model {model} reads: {places}. The rest "
            "would have no effect; they were not counted, since the model has no tokenizer/tokenizer.json"
        )
