"""The settings of sounds, a part of all settings (`settings.py`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class SoundSettings(BaseSettings):
    """How the sounds of rows are heard, and whether the dataset keeps them."""

    sound: str | None = Field(
        None,
        description="how `audio` is heard: `tagger`, or the file of an adapter; default: the model's own adapter, if "
        "it has one",
    )
    sound_model: str | None = Field(
        None,
        description="the tagger: a folder or hub id of CLAP or AST, or birdnet; or the CLAP of an adapter; "
        "default: laion/clap-htsat-unfused",
    )
    sound_phrases: Path | None = Field(
        None, description='TOML file of what a tagger\'s labels put into the prompt, like "Bird" = "a bird"'
    )
    sound_threshold: float | None = Field(
        None, ge=0, le=1, description="the least score of a tag that counts; default: 0.3"
    )
    sound_top: int | None = Field(None, ge=1, le=20, description="the most tags of a sound that count; default: 3")
    sound_template: str | None = Field(None, description="how tags join the prompt; default: {prompt}, {sounds}")
    keep_audio: bool = Field(False, description="write the sounds of rows into the dataset, as the column audio")
