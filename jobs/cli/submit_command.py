"""`wanbatch submit`: a run as a job on a Ray cluster, or as a script for a scheduler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch import __version__
from wanbatch.counting import number_of
from wanbatch.jobs.cli.options import default_output, json_option, run_arguments, settings_options
from wanbatch.jobs.cli.process_start import print_or_drop
from wanbatch.jobs.config.settings import Settings, read_settings
from wanbatch.manifests.storage.urls import is_url

if TYPE_CHECKING:
    from wanbatch.jobs.cluster.prepare import Prepared
    from wanbatch.jobs.cluster.submission import Submission
    from wanbatch.jobs.cluster.submit import Submitted

INTERRUPTED = 130
PYTHON = "python"
IMAGE = f"wanbatch:{__version__}"

address_option = click.option(
    "--address",
    help="of the cluster's dashboard, http://HOST:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, this machine",
)


@click.command()
@run_arguments
@address_option
@click.option("--detach", is_flag=True, help="do not wait: print the job's id and end")
@click.option("--upload", metavar="URL", help="put manifest and sources into this folder of a store first")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="environment variable of the job; may be repeated")
@click.option("--python", default=PYTHON, show_default=True, help="the interpreter, as the cluster's shell finds it")
@click.option(
    "--emit", type=click.Choice(["rayjob", "slurm"]), help="print what a scheduler takes, and submit nothing"
)
@click.option("--image", default=IMAGE, show_default=True, help="of --emit rayjob: container image with wanbatch")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 10_000), help="of --emit: machines")
@click.option(
    "--gpus-per-node", default=1, show_default=True, type=click.IntRange(0, 64), help="of --emit: GPUs of each"
)
@json_option
@settings_options(without=("address",))
@click.pass_context
def submit(
    ctx: click.Context,
    manifest: str | Path,
    out: str | Path | None,
    rerun_changed: bool,
    drop_removed: bool,
    new_run: bool,
    address: str | None,
    detach: bool,
    upload: str | None,
    env: tuple[str, ...],
    python: str,
    emit: str | None,
    image: str,
    nodes: int,
    gpus_per_node: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Have a Ray cluster make the images of MANIFEST, and follow it to its end.

    MANIFEST, sources and output folder are URLs of an object store, or paths that every node of the cluster sees.
    All other flags are those of `wanbatch run`, and so are the exit codes. The same command again attaches to the job
    while it runs, says how it ended, or goes on where it stopped. Ctrl-C ends following; the job goes on.

    \b
    Example:
      wanbatch submit s3://shop/rows.parquet --out s3://shop/pictures --address http://ray-head:8265
    """
    _require_flags_of_emit(ctx, emit)
    settings = read_settings(**given)
    from wanbatch.jobs.cluster.prepare import EARLIER_RUNS, prepare_submission

    given_of_earlier = zip(EARLIER_RUNS, (rerun_changed, drop_removed, new_run), strict=True)
    flags = [flag for flag, is_set in given_of_earlier if is_set]
    prepared = prepare_submission(manifest, out or default_output(manifest), settings, flags, env)
    for note in prepared.notes:
        _note(note)
    if upload is not None:
        prepared = _uploaded(prepared, tuple(flags), settings, upload)
    else:
        _note_absent_files(prepared, settings)
    if emit is not None:
        click.echo(_emitted(emit, prepared.submission, python, image, nodes, gpus_per_node), nl=False)
        return
    done = _submitted(ctx, prepared.submission, address, python, detach)
    _finish(ctx, prepared.submission.out, done, as_json)


def submit_manifest(
    ctx: click.Context,
    manifest: Path,
    out: str | Path,
    settings: Settings,
    flags: Sequence[str],
    address: str,
    as_json: bool,
) -> None:
    """Have a cluster make the images of a manifest as `wanbatch submit` does, and exit with the code of its run.

    Args:
        ctx: of the command.
        manifest: as every node sees it.
        out: path or URL of the output folder.
        settings: of the run.
        flags: further ones of `wanbatch run`.
        address: of the cluster's dashboard, as `--submit-to` has it.
        as_json: whether to print the end as JSON.
    """
    from wanbatch.jobs.cluster.prepare import prepare_submission

    prepared = prepare_submission(manifest, out, settings, flags)
    for note in prepared.notes:
        _note(note)
    done = _submitted(ctx, prepared.submission, address, flag="--submit-to")
    _finish(ctx, prepared.submission.out, done, as_json)


def _submitted(
    ctx: click.Context,
    submission: Submission,
    address: str | None,
    python: str = PYTHON,
    detach: bool = False,
    flag: str = "--address",
) -> Submitted:
    """Have a cluster do what is asked. Ctrl-C ends the command, and not the job. flag: that gives the address."""
    from wanbatch.jobs.cluster.job_client import ClusterJobs
    from wanbatch.jobs.cluster.submit import submit as submit_job

    jobs = ClusterJobs(address, flag)
    try:
        return submit_job(submission, jobs, python, detach, note=_note)
    except KeyboardInterrupt:
        _note(f"not followed any more; the job goes on: `wanbatch jobs list --address {jobs.address}`")
        ctx.exit(INTERRUPTED)


PARTS = {
    "address": (None,),
    "detach": (None,),
    "as_json": (None,),
    "python": (None, "slurm"),
    "image": ("rayjob",),
    "nodes": ("rayjob", "slurm"),
    "gpus_per_node": ("rayjob", "slurm"),
}
"""Flags that play a part with some values of --emit alone; None: without it."""


def _require_flags_of_emit(ctx: click.Context, emit: str | None) -> None:
    """Raises UsageError for flags that were given and play no part, with this --emit or without one."""
    flags = {option.name: option.opts[0] for option in ctx.command.params}
    for name, kinds in PARTS.items():
        if emit in kinds or ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            continue
        flag, given = flags[name], f"with --emit {emit}" if emit else "without --emit"
        ways = [f"drop {flag}", *(f"give --emit {kind}" if kind else "drop --emit" for kind in kinds)]
        raise click.UsageError(f"{flag} plays no part {given}: {', '.join(ways[:-1])} or {ways[-1]}")


def _emitted(kind: str, submission: Submission, python: str, image: str, nodes: int, gpus_per_node: int) -> str:
    """Return what a scheduler takes."""
    for path in (submission.manifest, submission.out, *submission.needed):
        if not is_url(path):
            _note(f"{path}: every node must see it under this name")
    if kind == "slurm":
        from wanbatch.jobs.cluster.slurm import slurm_script

        return slurm_script(submission, nodes, gpus_per_node, python)
    from importlib.metadata import version

    from wanbatch.jobs.cluster.rayjob import rayjob_yaml

    return rayjob_yaml(submission, image, version("ray"), nodes, gpus_per_node)


def _uploaded(prepared: Prepared, flags: tuple[str, ...], settings: Settings, target: str) -> Prepared:
    """Put what only this machine has into a store."""
    from wanbatch.jobs.cluster.upload import upload_inputs

    done = upload_inputs(prepared, flags, settings, target)
    missing = f", {number_of(done.missing, 'sources')} not here" if done.missing else ""
    _note(
        f"{number_of(done.files, 'files')} uploaded, {done.known} were there{missing}: "
        f"{done.prepared.submission.manifest}"
    )
    return done.prepared


def _note_absent_files(prepared: Prepared, settings: Settings) -> None:
    """Say which files of the rows this machine does not see, if it sees their folder."""
    from wanbatch.jobs.cluster.local_sources import note_of_absent_files

    if prepared.manifest is not None and (note := note_of_absent_files(prepared.manifest, settings.allow_http)):
        _note(note)


def _finish(ctx: click.Context, out: str, done: Submitted, as_json: bool) -> None:
    """Print how a job ended and exit with the code of its run."""
    end = done.end
    fields: dict[str, Any] = {"job": done.id, "attached": done.attached, "out": out}
    if end is not None:
        counts = end.counts or {}
        fields |= {"status": end.state.status, "exit_code": end.exit_code, "message": end.explanation}
        fields |= {name: counts.get(name) for name in ("rows", "done", "quarantined", "pending", "failures")}
    if as_json:
        print_or_drop(json.dumps(fields))
    elif end is None:
        click.echo(done.id)
    else:
        print_or_drop(f"job {done.id} {end.state.status.lower()}, exit code {end.exit_code}")
        if end.counts is not None:
            made, rows, failed = (fields[name] for name in ("done", "rows", "quarantined"))
            print_or_drop(f"  pictures  {made} of {'?' if rows is None else rows} made, {failed} failed")
        print_or_drop(f"  output    {out}")
        if end.explanation and end.exit_code not in (0, 3):
            print_or_drop(f"wanbatch: {end.explanation}", err=True)
    ctx.exit(0 if end is None else end.exit_code)


def _note(text: str) -> None:
    print_or_drop(f"wanbatch: {text}", err=True)
