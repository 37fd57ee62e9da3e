"""Syntax of other tools in prompts, which the model reads as text: nothing else would say that it has no effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from wanbatch.jobs.planning.plan import Plan

SYNTAX = {
    r"<(lora|lyco|hypernet):[^<>]+>": "adapters as <lora:name:weight>",
    r"\([^()]+:\s*\d?\.\d+\s*\)": "weights as (words:1.2)",
    r"\{[^{}|]+\|[^{}]*\}": "choices as {one|another}",
    r"(^|[^_\w])__[\w/-]+__($|[^_\w])": "wildcards as __name__",
}
"""Regular expressions (RE2) -> what they stand for in other tools."""

ROWS_SHOWN = 5


def with_syntax_warnings(plan: Plan) -> Plan:
    """The plan with a warning for each syntax of other tools that its prompts and negative prompts hold."""
    warnings = [said for pattern, name in SYNTAX.items() for said in _warning(plan, pattern, name)]
    return replace(plan, warnings=(*plan.warnings, *warnings))


def _warning(plan: Plan, pattern: str, name: str) -> Iterator[str]:
    rows = plan.manifest.rows
    holding = [pc.fill_null(pc.match_substring_regex(rows[c], pattern), False) for c in ("prompt", "negative_prompt")]
    found = np.flatnonzero(pc.or_(*holding)).tolist()
    if not found:
        return
    shown = ", ".join(plan.manifest.row(index).location for index in found[:ROWS_SHOWN])
    more = f" and {len(found) - ROWS_SHOWN} more" if len(found) > ROWS_SHOWN else ""
    count = f"the prompts of {len(found)} rows have" if len(found) > 1 else "the prompt of 1 row has"
    yield f"{count} {name}, which the model reads as plain text: {shown}{more}"
