"""The command `wanbatch`: its commands, and how errors become a message and an exit code.

Whatever takes long to import (torch, ray, diffusers) is imported by the commands that need it when they run.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from typing import Any

import click

from wanbatch import __version__
from wanbatch.errors import MachineryError, ManifestError, WanbatchError
from wanbatch.jobs.cli.adapters_command import adapters
from wanbatch.jobs.cli.augment_command import augment
from wanbatch.jobs.cli.bench_command import bench
from wanbatch.jobs.cli.check_command import check
from wanbatch.jobs.cli.compare_command import compare
from wanbatch.jobs.cli.completion_command import completion
from wanbatch.jobs.cli.convert_command import convert
from wanbatch.jobs.cli.doctor_command import doctor
from wanbatch.jobs.cli.engines_commands import engines
from wanbatch.jobs.cli.export_command import export
from wanbatch.jobs.cli.folder_commands import repair, status
from wanbatch.jobs.cli.jobs_command import jobs
from wanbatch.jobs.cli.options import AS_JSON
from wanbatch.jobs.cli.origin_command import origin
from wanbatch.jobs.cli.plan_command import plan
from wanbatch.jobs.cli.process_start import (
    ensure_current_folder,
    is_of_printing,
    open_standard_streams,
    print_or_drop,
)
from wanbatch.jobs.cli.push_command import push
from wanbatch.jobs.cli.qualify_command import qualify
from wanbatch.jobs.cli.report_command import report
from wanbatch.jobs.cli.run_commands import retry, run
from wanbatch.jobs.cli.schedule_commands import schedule
from wanbatch.jobs.cli.submit_command import submit
from wanbatch.jobs.cli.train_command import train
from wanbatch.jobs.cli.tune_command import tune
from wanbatch.machine import waiting_variables

INTERRUPTED = 130
INTERRUPTED_ANYWHERE = "interrupted; what was committed is kept"


class Commands(click.Group):
    """A group of commands that prints wanbatch's own errors as one clear message and exits with their code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line."""
        open_standard_streams()
        os.environ.update(waiting_variables(os.environ))  # for commands that use the model in this process
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            ensure_current_folder()
            return super().invoke(ctx)
        except WanbatchError as error:
            print_or_drop(f"wanbatch: {error}", err=True)
            if isinstance(error, ManifestError) and ctx.meta.get(AS_JSON):
                click.echo(json.dumps({"problems": [asdict(problem) for problem in error.problems]}))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as interrupt:
            print_or_drop(f"wanbatch: {interrupt or INTERRUPTED_ANYWHERE}", err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE or not is_of_printing(error):
                raise  # nobody reads on, which click ends quietly; or it is about another file
            why = error.strerror or str(error)
            print_or_drop(f"wanbatch: standard output cannot be written to ({why}): print it elsewhere", err=True)
            ctx.exit(MachineryError.exit_code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        run,
        retry,
        augment,
        check,
        plan,
        status,
        report,
        repair,
        origin,
        export,
        submit,
        jobs,
        schedule,
        compare,
        push,
        adapters,
        convert,
        tune,
        train,
        engines,
        bench,
        qualify,
        doctor,
        completion,
    ],
)
@click.version_option(__version__)
def main() -> None:
    """Image datasets from a manifest, made with Wan2.2 used one frame at a time."""
