"""The columns of sounds, a part of the one table of columns (`column_table.py`)."""

from __future__ import annotations

import pyarrow as pa

from wanbatch.manifests.column_types import SHARE, SOUND, Column, Given

SOUND_COLUMNS: tuple[Column, ...] = (
    Column(
        "audio",
        "a sound that the picture follows beside or instead of the prompt, as the run's `sound` hears it; in a "
        "dataset the sound's file, where the run keeps it",
        Given(SOUND, "none", "sound"),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        since=6,
    ),
    Column(
        "audio_weight",
        "how much the sound counts: 1 in full, 0 as if there were none",
        Given(SHARE, "1"),
        pa.float64(),
        pixels=True,
        since=6,
    ),
    Column(
        "audio_source",
        "the sound that was heard: path, SHA-256 of the file, seconds",
        written=pa.struct([("path", pa.string()), ("sha256", pa.string()), ("seconds", pa.float64())]),
        since=6,
        rare=True,
    ),
    Column(
        "audio_tags",
        "what a tagger heard in the sound: label, the words that it puts into the prompt, score, and the seconds "
        "between which it was loudest",
        written=pa.list_(
            pa.struct(
                [
                    ("label", pa.string()),
                    ("phrase", pa.string()),
                    ("score", pa.float64()),
                    ("start", pa.float64()),
                    ("end", pa.float64()),
                ]
            )
        ),
        since=6,
        rare=True,
    ),
    Column(
        "audio_prompt",
        "the prompt that the model was given, with what a tagger heard",
        written=pa.string(),
        since=6,
        rare=True,
    ),
)
