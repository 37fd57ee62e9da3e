"""Making the pictures of a recipe's manifest, by the run that every manifest gets."""

from __future__ import annotations

from pathlib import Path

from wanbatch.jobs.augment.writing import Written
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.reporting.summary import Summary


def settings_for(written: Written, settings: Settings) -> Settings:
    """The settings of a run of a recipe's manifest: those that said how the dataset is read play no part."""
    fence = written.fence if written.needs_fence else None
    return settings.model_copy(update={"map": {}, "source_root": None, "source_fence": fence})


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

    return run(written.manifest, out, settings_for(written, settings))
