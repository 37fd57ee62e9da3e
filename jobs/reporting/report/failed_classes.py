"""The classes of failed images, which are in the manifest only: `failures/` does not have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.reporting.report import groups
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.records import huggingface_features

MOST_ROWS = 1_000_000
"""Of a manifest that is read again for this; reading more takes longer than the report."""


def classes_of_failures(
    failures: Sequence[Mapping[str, Any]], manifest: Manifest | None, digest: str | None, column: str | None
) -> tuple[str | None, list[str] | None]:
    """The column of classes, and the class of each failed image in it; None for what is not known.

    Args:
        failures: rows of `failures/`.
        manifest: of the run; None if it cannot be read.
        digest: of the manifest as the run read it.
        column: the column that has the classes; None: the first of the manifest that looks like it.
    """
    if manifest is None or manifest.digest != digest:
        return column, None
    column = column or groups.class_column(manifest.passthrough.schema)
    if column is None or column not in manifest.passthrough.column_names:
        return column, None
    wanted = pa.array([failure["manifest_row"] for failure in failures], manifest.rows["number"].type)
    values = manifest.passthrough[column].take(pc.index_in(wanted, manifest.rows["number"].combine_chunks()))
    return column, groups.class_names(values, class_label_names(manifest.passthrough.schema, column))


def class_label_names(schema: pa.Schema, column: str) -> Sequence[str] | None:
    """The names of numbered classes, if a schema declares them as `datasets` does."""
    feature = huggingface_features(schema).get(column, {})
    return feature.get("names") if feature.get("_type") == "ClassLabel" else None
