"""What the header of every adapter that is trained here says of where it is from, by the names of other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Protocol


class Origin(Protocol):
    """What the user says of an adapter of any kind."""

    @property
    def name(self) -> str:
        """Of the adapter, and of its file."""

    @property
    def base(self) -> str:
        """The model that it is for."""

    @property
    def license(self) -> str:
        """Of the adapter."""

    @property
    def author(self) -> str:
        """Who made it; empty if it is not said."""


def front_matter(values: Mapping[str, str]) -> list[str]:
    """Lines of a card's front matter. What a user said may be anything, such as `sks: a dog`, and is quoted text."""
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def origin_header(about: Origin, size: tuple[int, int]) -> dict[str, str]:
    """What the header says of an adapter's origin, by the names of kohya's scripts and of modelspec.

    Args:
        about: The adapter.
        size: (width, height) of a training picture in pixels.
    """
    said = {
        "ss_base_model_version": "wan2.2",
        "ss_sd_model_name": about.base,
        "modelspec.architecture": "wan2.2/lora",
        "modelspec.title": about.name,
        "modelspec.resolution": f"{size[0]}x{size[1]}",
        "modelspec.date": date.today().isoformat(),
        "modelspec.author": about.author,
        "modelspec.license": about.license,
    }
    return {key: value for key, value in said.items() if value != ""}
