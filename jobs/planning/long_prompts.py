"""Prompts with more tokens than the model reads: what comes after has no effect, and nothing else would say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of
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
    beside = _tokens_of_sounds(plan)
    for column, cut in CUT.items():
        if column == "prompt":
            read, tokens = TEXT_TOKENS - beside, _tokens_cut(counter, images[column], TEXT_TOKENS)
            if beside.any():
                less = _tokens_cut(counter, images[column], int(read.min()))
                tokens = pc.if_else(pa.array(beside > 0), less, tokens)
        else:
            read = np.full(len(images), TEXT_TOKENS)
            tokens = _tokens_cut(counter, pc.if_else(guided, images[column], None), TEXT_TOKENS)
        warnings += _warnings(plan, column, tokens, read, model.name, counter.can_count)
        if counter.can_count:
            images = images.set_column(images.schema.get_field_index(cut), cut, tokens)
    return replace(plan, images=images, warnings=tuple(warnings)).with_used_later()


def _tokens_cut(counter: TokenCounter, texts: pa.ChunkedArray, read: int) -> pa.Array:
    """Of each text how many tokens are not read; null where all are. int32."""
    distinct = texts.combine_chunks().dictionary_encode()
    prompts = distinct.dictionary.to_pylist()
    longer = counter.longer_than_read(prompts, read)
    of_distinct = pa.array([longer.get(prompt) for prompt in prompts], pa.int32())
    return of_distinct.take(distinct.indices)


def _tokens_of_sounds(plan: Plan) -> np.ndarray:
    """How many places of each image's prompt an adapter's sound takes. int64."""
    if plan.hearing is None or not plan.hearing.tokens:
        return np.zeros(len(plan), dtype=np.int64)
    rows = plan.manifest.rows
    silent = pc.equal(pc.fill_null(rows["audio_weight"], 1.0), 0.0)
    heard = pc.and_not(pc.is_valid(rows["audio"]), silent).to_numpy()
    return np.where(heard[plan.images["row"].to_numpy()], plan.hearing.tokens, 0)


def notes_on_long_prompts(plan: Plan) -> tuple[str, ...]:
    """How many images the model read only a part of the prompt for, for the dataset card."""
    counts = {column: len(plan) - plan.images[cut].null_count for column, cut in CUT.items()}
    return tuple(
        f"Of the {column.replace('_', ' ')} of {number_of(count, 'images')} "
        f"the model read only the first {TEXT_TOKENS} tokens; see `{CUT[column]}`"
        for column, count in counts.items()
        if count and CUT[column] in plan.later
    )


def _warnings(
    plan: Plan, column: str, tokens: pa.Array, read: np.ndarray, model: str, counted: bool
) -> Iterator[str]:
    found = np.flatnonzero(pc.is_valid(tokens))
    rows, first = np.unique(plan.images["row"].to_numpy()[found], return_index=True)
    if not len(rows):
        return
    shown = []
    for row, index in zip(rows[:ROWS_SHOWN].tolist(), found[first].tolist(), strict=False):
        count = f" ({tokens[index].as_py() + int(read[index])} tokens)" if counted else ""
        shown.append(plan.manifest.row(row).location + count)
    places = ", ".join(shown) + (f" and {len(rows) - len(shown)} more" if len(rows) > len(shown) else "")
    name = column.replace("_", " ")
    which = f"{len(rows)} {name}s are" if len(rows) > 1 else f"1 {name} is"
    fewest = int(read[found].min())
    reads = f"reads ({fewest} beside a sound)" if fewest < TEXT_TOKENS else "reads"
    if counted:
        yield (
            f"{which} longer than the {TEXT_TOKENS} tokens that model {model} {reads}, and the rest has no effect: "
            f"{places}. Shorten what you can; the dataset's column {CUT[column]} says by how much"
        )
    else:
        yield (
            f"{which} perhaps longer than the {TEXT_TOKENS} tokens that model {model} {reads}: {places}. The rest "
            "would have no effect; they were not counted, since the model has no tokenizer/tokenizer.json"
        )
