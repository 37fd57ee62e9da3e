"""What is told of a build of engines."""

from __future__ import annotations

from wanbatch.engines.build_progress import BuildProgress


def test_what_is_left_is_estimated_by_what_was_built():
    said: list[str] = []
    progress = BuildProgress(3, said.append)
    progress.begins("text")
    progress.ended(10.0)
    progress.begins("dit 64x64, 2 rows")
    progress.ended(30.0)
    progress.begins("vae-decode 64x64")
    assert said == [
        "text: building, 1 of 3",
        "dit 64x64, 2 rows: building, 2 of 3, some 20 s left",
        "vae-decode 64x64: building, 3 of 3, some 20 s left",
    ]


def test_phases_are_told_by_quarters():
    said: list[str] = []
    progress = BuildProgress(1, said.append, label="text")
    for step in range(1, 101):
        progress.phase("Building engine", step / 100)
    progress.phase("Serializing", 1.0)
    assert said == [*(f"text: Building engine {share}%" for share in (25, 50, 75, 100)), "text: Serializing 100%"]
