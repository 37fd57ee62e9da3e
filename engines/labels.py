"""Names of the parts of a model that engines stand in for. No torch."""

from __future__ import annotations

TEXT, TRANSFORMER, SECOND_TRANSFORMER, ENCODER, DECODER = "text", "dit", "dit_2", "vae-encode", "vae-decode"

COMPONENTS = {"text": (TEXT,), "dit": (TRANSFORMER, SECOND_TRANSFORMER), "vae": (ENCODER, DECODER)}
"""What a user names, and the components that it stands for."""


def label_of(component: str, width: int, height: int, rows: int) -> str:
    """A graph in words, such as `dit 128x128, 8 rows`."""
    size = f" {width}x{height}" if width else ""
    return f"{component}{size}" + (f", {rows} rows" if component.startswith(TRANSFORMER) else "")
