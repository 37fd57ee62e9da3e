"""Prompts that are longer than a picture's file holds of them, where settings are embedded."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute as pc

from wanbatch.counting import number_of
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.dataset.origin_marks import MAX_TEXT


def warnings_of_cut_texts(plan: Plan) -> Iterator[str]:
    """A sentence for each kind of text of which some stand in their files only in part."""
    for column in ("prompt", "negative_prompt"):
        count = pc.sum(pc.greater(pc.utf8_length(plan.images[column]), MAX_TEXT)).as_py()
        if count:
            yield (
                f"the files of {number_of(count, 'images')} have only the first {MAX_TEXT - 1} characters of their "
                f"{column.replace('_', ' ')} embedded; the dataset has them whole"
            )
