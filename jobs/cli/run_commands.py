"""`wanbatch run` and `wanbatch retry`: making the images of a manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.jobs.cli.options import (
    default_output,
    folder_argument,
    json_option,
    run_arguments,
    settings_options,
)
from wanbatch.jobs.cli.process_start import print_or_drop
from wanbatch.jobs.config.settings import read_settings

if TYPE_CHECKING:
    from wanbatch.jobs.reporting.summary import Summary


@click.command()
@run_arguments
@json_option
@settings_options()
@click.pass_context
def run(
    ctx: click.Context,
    manifest: str | Path,
    out: str | Path | None,
    rerun_changed: bool,
    drop_removed: bool,
    new_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the images of MANIFEST into a dataset.

    MANIFEST is a JSONL, CSV, Parquet or Arrow file, a folder of such files or of pictures, or the output folder of
    an earlier run.

    The same command again goes on where it stopped. Paths may be URLs of an object store, like s3://bucket/folder.

    Exit codes: 0 all rows made; 2 bad usage or manifest; 3 finished, some rows quarantined; 4 another run holds the
    folder; 5 stopped by --max-failures; 6 stopped by --circuit-breaker; 75 the machinery failed; 130 interrupted.

    \b
    Example:
      wanbatch run examples/quickstart.jsonl --out out/quickstart
      wanbatch run shop.parquet --model Wan-AI/Wan2.2-TI2V-5B-Diffusers --revision 1a2b3c4 --steps 30
    """
    settings = read_settings(**given)
    from wanbatch.jobs.driver.run import run as run_manifest

    target = out or default_output(manifest)
    summary = run_manifest(
        manifest, target, settings, rerun_changed=rerun_changed, drop_removed=drop_removed, new_run=new_run
    )
    finish(ctx, summary, as_json)


@click.command()
@folder_argument
@click.option(
    "--class", "classes", multiple=True, help="only rows that failed with this error class; may be repeated"
)
@json_option
@click.pass_context
def retry(ctx: click.Context, out: str | Path, classes: tuple[str, ...], as_json: bool) -> None:
    """Make the quarantined rows of the output folder OUT again, as its last run was started.

    \b
    Example:
      wanbatch retry out/quickstart --class missing_image
    """
    from wanbatch.jobs.driver.run import retry as retry_failures

    finish(ctx, retry_failures(out, classes), as_json)


def finish(ctx: click.Context, summary: Summary, as_json: bool) -> None:
    """Print how a run ended, and exit with its code, also where nothing can be printed."""
    from wanbatch.jobs.reporting.text_summary import summary_text

    fields = {**asdict(summary), "pending": summary.pending}
    print_or_drop(json.dumps(fields) if as_json else summary_text(summary))
    ctx.exit(summary.exit_code)
