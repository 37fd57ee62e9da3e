"""Sounds of rows: how the run hears them, which images have one, and what their data parts will hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.columns import WRITTEN
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sound.config import TAGGER, THRESHOLD, TOP, SoundConfig, find_adapter, find_tagger
from wanbatch.pipeline.sound.phrases import TEMPLATE

OF_TAGGERS = ("sound_phrases", "sound_threshold", "sound_top", "sound_template")


def hearing_of(settings: Settings, model: ModelInfo) -> SoundConfig | None:
    """How a run hears sounds; None: it does not.

    Raises:
        UserError: A tagger, an adapter or what is said of one is not right.
    """
    if settings.sound != TAGGER:
        for name in OF_TAGGERS:
            if getattr(settings, name) is not None:
                raise UserError(f"setting {name}: is of taggers alone: give --sound tagger, too, or drop it")
        if settings.sound is None and settings.sound_model is not None:
            raise UserError("setting sound_model: is of taggers and adapters that hear by CLAP: give --sound, too")
        return find_adapter(settings.sound, model, settings.sound_model)
    return find_tagger(
        settings.sound_model,
        settings.sound_phrases,
        THRESHOLD if settings.sound_threshold is None else settings.sound_threshold,
        settings.sound_top or TOP,
        settings.sound_template or TEMPLATE,
    )


def check_sounds(rows: pa.Table, hearing: SoundConfig | None, model: ModelInfo) -> Iterator[tuple[int, str]]:
    """Rows with a sound that nothing hears: pairs of a row's index and what to say of it.

    rows: of the manifest (`arrow_rows.ROWS_SCHEMA`).
    """
    if hearing is not None:
        return
    for index in np.flatnonzero(pc.is_valid(rows["audio"])).tolist():
        yield (
            index,
            f"audio: model {model.name} does not hear by itself: give --sound tagger or --sound with the file of an "
            "adapter, or drop the column",
        )


def sound_warnings(rows: pa.Table, settings: Settings) -> tuple[str, ...]:
    """What of the settings has no effect on rows, a sentence each."""
    if rows["audio"].null_count < len(rows):
        return ()
    given = [name for name, asked in (("sound", settings.sound), ("keep_audio", settings.keep_audio)) if asked]
    return tuple(f"setting {name}: has no effect, since no row has audio" for name in given)


def with_sounds(images: pa.Table, rows: pa.Table, hearing: SoundConfig | None, keep: bool) -> pa.Table:
    """Images with the columns that say what their data parts will hold of their sounds; workers fill them in.

    Args:
        images: of the plan; `row` is the index of each one's manifest row.
        rows: of the manifest (`arrow_rows.ROWS_SCHEMA`).
        hearing: how sounds are heard.
        keep: whether the sounds' files go to the output.
    """
    if hearing is None or rows["audio"].null_count == len(rows):
        return images
    having = pc.is_valid(rows["audio"]).take(images["row"]).to_numpy()
    heard = having & (pc.fill_null(images["audio_weight"], 1.0).to_numpy() > 0)
    marks = {"audio_source": {"path": None, "sha256": None, "seconds": None}}
    if hearing.kind != "adapter" or hearing.tells_noise:
        marks |= {"audio_tags": [], "audio_prompt": ""}  # type: ignore[dict-item]
    for name, mark in marks.items():
        column = pa.array([mark if one else None for one in heard.tolist()], WRITTEN[name])
        images = images.set_column(images.schema.get_field_index(name), name, column)
    if keep:
        kept = pa.array([{"path": ""} if one else None for one in having.tolist()], WRITTEN["audio"])
        images = images.append_column("audio", kept)
    return images
