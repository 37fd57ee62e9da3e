"""What several commands share: the flags of the settings, common arguments, and how errors find `--json`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic.fields import FieldInfo

from wanbatch.jobs.cli.flag_types import FieldType, PathOrUrl, flag_type, matching
from wanbatch.jobs.config.field_help import METAVAR, accepted
from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.sampling.step_cache import NONE, SKIPS

AS_JSON = "wanbatch.as_json"  # in the context's `meta`


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[AS_JSON] = value
    return value


manifest_argument = click.argument("manifest", type=PathOrUrl())
folder_argument = click.argument("out", type=PathOrUrl("dir"))
json_option = click.option("--json", "as_json", is_flag=True, callback=_remember, help="print JSON")


drop_removed_option = click.option(
    "--drop-removed", is_flag=True, help="take rows out of the dataset that MANIFEST does not ask for any more"
)


def run_arguments(command: Callable) -> Callable:
    """Add what a run is given besides settings: the manifest, the output folder, what is done about earlier runs."""
    for add in reversed(
        (
            manifest_argument,
            click.option(
                "--out",
                "-o",
                type=PathOrUrl("dir"),
                help="output folder or its URL; default: out/NAME-OF-MANIFEST, of out/NAME out/NAME-pass-2",
            ),
            click.option("--rerun-changed", is_flag=True, help="make rows again that changed since they were made"),
            drop_removed_option,
            click.option(
                "--new-run", is_flag=True, help="use OUT-2, OUT-3, ... if a run with other settings filled OUT"
            ),
        )
    ):
        command = add(command)
    return command


def default_output(manifest: str | Path) -> Path:
    """Where a manifest's images go if no one says: `out/shop` of `shop.jsonl`.

    Of a manifest that is itself there, the output folder of an earlier pass, `out/shop-pass-2`; of that one
    `out/shop-pass-3`.
    """
    from wanbatch.manifests.storage.urls import absolute

    usual = Path("out") / Path(manifest).stem
    if absolute(usual) != absolute(manifest):
        return usual
    name, passes = re.fullmatch(r"(.*?)(?:-pass-([1-9][0-9]*))?", usual.name, re.DOTALL).groups()  # type: ignore[union-attr]
    return usual.with_name(f"{name}-pass-{int(passes or 1) + 1}")


def settings_options(*names: str, without: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Return a decorator that adds the flags of some fields of `Settings`; of all of them without names.

    A flag that is not given is passed on as None.
    """

    def decorate(command: Callable) -> Callable:
        for name in reversed([name for name in names or tuple(Settings.model_fields) if name not in without]):
            command = _option(name, Settings.model_fields[name])(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Callable], Callable]:
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.option(flag, name, is_flag=True, flag_value=True, default=None, help=field.description)
    if get_origin(field.annotation) is dict:
        more = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        metavar = str(more.get(METAVAR, "COLUMN=COLUMN"))
        return click.option(
            flag, name, multiple=True, metavar=metavar, callback=_none_if_empty, help=field.description
        )
    kind = flag_type(name, field)
    explained = isinstance(kind, FieldType) and kind.explained
    words = f"{field.description} ({accepted(field)})" if explained else str(field.description)
    words += "" if field.default is None else f" [default: {field.default}]"
    completion: dict[str, Any] = {"shell_complete": _complete_step_cache} if name == "step_cache" else {}
    return click.option(flag, name, type=kind, default=None, help=words, **completion)


def _none_if_empty(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return value or None


def _complete_step_cache(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return matching([NONE, *SKIPS], incomplete)
