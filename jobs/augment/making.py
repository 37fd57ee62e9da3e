"""Making the pictures of a recipe's manifest, by the run that every manifest gets."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wanbatch.jobs.augment.writing import Written
from wanbatch.jobs.config.flag_words import flag_words
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.reporting.summary import Summary


def settings_for(written: Written, settings: Settings) -> Settings:
    """The settings of a run of a recipe's manifest: those that said how the dataset is read play no part."""
    fence = written.fence if written.needs_fence else None
    return settings.model_copy(update={"map": {}, "source_root": None, "source_fence": fence})


def flags_for(written: Written, settings: Settings, given: Collection[str]) -> list[str]:
    """The flags of `wanbatch run` that make a manifest's pictures as `--run` of the same command would.

    Args:
        written: the manifest.
        settings: of the command.
        given: those that its flags gave. What variables and the file gave is found by the next command, too.
    """
    of_run = settings_for(written, settings)
    names = [name for name in Settings.model_fields if name in given and name != "source_fence"]
    values = {"source_fence": of_run.source_fence} | {name: getattr(of_run, name) for name in names}
    words = [word for name, value in values.items() if value is not None for word in flag_words(name, value)]
    return words + further_flags(written)


def further_flags(written: Written) -> list[str]:
    """The flags of a run of a manifest that are no settings."""
    return ["--drop-removed"] if written.drop_removed else []


def make_pictures(written: Written, out: str | Path, settings: Settings) -> Summary:
    """Make the pictures of a manifest; what is made already stays.

    Args:
        written: the manifest.
        out: path or URL of the output folder.
        settings: of the run.
    Raises:
        WanbatchError: whatever `run` raises.
    """
    from wanbatch.jobs.driver.run import run

    return run(written.manifest, out, settings_for(written, settings), drop_removed=written.drop_removed)
