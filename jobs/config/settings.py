"""Settings of a run: flags, `WANBATCH_*` variables and `wanbatch.toml` set the same fields.

A flag wins over a variable, a variable over the file, the file over the default. Unknown fields are errors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from wanbatch.errors import UserError
from wanbatch.jobs.config.adapter_texts import checked_adapters, named_adapters, of_table
from wanbatch.jobs.config.field_help import METAVAR, RULE, accepted, choices
from wanbatch.jobs.config.field_texts import column_pairs, node_labels, possible_pairs, split_list
from wanbatch.jobs.config.schedule_names import SCHEDULE_TABLES, SCHEDULED_RUN, SCHEDULED_TIME
from wanbatch.jobs.config.settings_text import ADAPTERS, settings_table
from wanbatch.jobs.config.sound_settings import SoundSettings
from wanbatch.jobs.config.unknown_settings import instead_of
from wanbatch.manifests.columns import GIVEN, RUN_SETTINGS
from wanbatch.manifests.dataset.content_credentials import SigningFiles
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.pipeline.loading.registry import TINY
from wanbatch.suggestions import did_you_mean, nearest_sides

PREFIX = "WANBATCH_"
FILE = "wanbatch.toml"
AUTO = "auto"
ADDRESS = r"^(auto|(ray://)?[^\s/:]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:.]+\]:\d{1,5})$"


def _field_of(name: str) -> tuple[Any, Any]:
    """The settings field of a column that the run may set: its annotation and its default."""
    given = GIVEN[name]
    check = given.kind.check
    if pa.types.is_list(given.kind.type):
        check = Annotated[check, NoDecode, BeforeValidator(split_list), AfterValidator(tuple), PlainSerializer(list)]
    return check | None, Field(None, description=given.run, json_schema_extra={RULE: given.kind.rule})


_fields: dict[str, Any] = {name: _field_of(name) for name in RUN_SETTINGS}
_ColumnDefaults: Any = create_model("_ColumnDefaults", __base__=SoundSettings, **_fields)


class _FileSource(TomlConfigSettingsSource):
    """The settings of the file, without its schedules, and with its adapters as the field `lora`."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        values = {
            name: value
            for name, value in settings_table(file_path.read_bytes()).items()
            if name not in SCHEDULE_TABLES or not isinstance(value, dict)
        }
        if isinstance(values.get(ADAPTERS), dict):
            values["lora"] = of_table(values.pop(ADAPTERS))
        return values


class Settings(_ColumnDefaults):
    """How a manifest is run: defaults for its rows (`columns.RUN_SETTINGS`), and the fields here.

    None: the model, or the machine, decides.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=FILE, extra="forbid", frozen=True, protected_namespaces=()
    )

    model: str = Field(TINY, description="`tiny`, a folder in diffusers layout, also in an object store, or a hub id")
    revision: str | None = Field(None, description="revision of a hub model (a commit, tag or branch)")
    seed: int = Field(0, ge=0, lt=2**63, description="seeds of rows without one are derived from it")
    step_cache: str = Field(
        "none", description="what is skipped at which step: `none`, or a cache such as `taylor:interval=2`"
    )

    lora: Annotated[dict[str, str], NoDecode, BeforeValidator(named_adapters), AfterValidator(checked_adapters)] = (
        Field(
            {},
            description="an adapter that rows may name, and its weight, like crayon=crayon.safetensors:0.8; may be "
            "repeated",
            json_schema_extra={RULE: "adapters, like crayon=crayon.safetensors:0.8", METAVAR: "NAME=PATH[:WEIGHT]"},
        )
    )
    merge: (
        Annotated[list[str], NoDecode, BeforeValidator(split_list), AfterValidator(tuple), PlainSerializer(list)]
        | None
    ) = Field(
        None,
        description="adapters that all rows get, merged into the model's weights, like few-step,ink",
        json_schema_extra={RULE: "names of adapters, like few-step,ink"},
    )

    map: Annotated[dict[str, str], NoDecode, BeforeValidator(column_pairs), AfterValidator(possible_pairs)] = Field(
        {},
        description="a column of the manifest that is read as another one, like caption=prompt; may be repeated",
        json_schema_extra={RULE: "pairs of columns, like caption=prompt"},
    )
    strict: bool = Field(
        False, description="refuse columns that seem to mean another one, instead of warning of them"
    )
    split: str | None = Field(
        None, description="the split to read of a folder that has several, like train; default: all of them"
    )
    source_root: str | None = Field(
        None, description="folder, or its URL, that relative paths of sources start from; default: the manifest's"
    )
    source_fence: str | None = Field(
        None, description="folder, or its URL, that no source may leave; default: where relative paths start from"
    )
    allow_http: bool = Field(False, description="take sources from the web too, from public hosts only")
    log_prompts: bool = Field(False, description="name the prompts of quarantined rows in the log too")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    preset: Literal["exact", "balanced", "fast"] = Field(
        "exact",
        description="exact: nothing but rounding; balanced, fast: fewer or cheaper steps, FP8 where the GPU has it",
    )
    precision: Literal["auto", "fp32", "bf16", "fp8", "int8"] = Field(
        "auto", description="auto: the preset's, on a CPU fp32; fp8, int8: of the large layers, bf16 around them"
    )
    text_precision: Literal["auto", "fp8"] = Field(
        "auto", description="auto: as the rest; fp8: of the text encoder's weights alone, half its memory"
    )
    row_adapters: Literal["added", "merged"] = Field(
        "added", description="of rows that name adapters; merged: each slot has weights of its own, exact and large"
    )
    compile: Literal["auto", "never", "always"] = Field(
        "auto", description="whether the model is compiled before the first unit; auto: on a GPU"
    )
    compile_cache: Path | None = Field(None, description="folder of compiled code; default: the user's cache folder")
    offload: Literal["auto", "never"] = Field(
        "auto", description="auto: parts of the model take turns on a GPU without room for all of them"
    )
    text_cache: Path | None = Field(None, description="folder that keeps text embeddings between runs; default: none")
    engines: str | None = Field(None, description="store of engines to use, a folder or its URL; default: none")
    require_engines: bool = Field(False, description="stop if the store has no engines for the run")
    workers: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] | None = Field(
        None,
        description="worker processes; auto, the default: one for each GPU, also of nodes that join later; "
        "without GPUs as many as cores and memory have room for, on a cluster one for each host",
    )
    address: str | None = Field(
        None,
        pattern=ADDRESS,
        description="Ray cluster to run on; auto: RAY_ADDRESS, or the cluster that this host is part of; default: a "
        "Ray of the run's own on this machine",
        json_schema_extra={RULE: "auto, HOST:PORT or ray://HOST:PORT"},
    )
    start_deadline: float = Field(
        1800.0, gt=0, description="on a cluster, seconds to wait for the first worker to find a place"
    )
    label_selector: Annotated[dict[str, str], NoDecode, BeforeValidator(node_labels)] = Field(
        {},
        description="on a cluster, a label that nodes with workers must have, like market-type=spot; may be repeated",
        json_schema_extra={RULE: "labels, like market-type=spot", METAVAR: "KEY=VALUE"},
    )
    accelerator_type: str | None = Field(
        None, description="on a cluster, the kind of GPU that workers get, as Ray calls it, like H100"
    )
    mixed_devices: bool = Field(
        False, description="make pictures on several kinds of devices, whose last bits differ; the folder records it"
    )
    model_cache: Path | None = Field(
        None,
        description="on a cluster, folder on each node that keeps a copy of the model; default: a folder is used "
        "as it is, and a model in a store is copied to the user's cache folder",
    )
    slots: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        4, description="rows denoised together, part of what fixes the pixels; auto: measured once for a folder"
    )
    threads: int = Field(
        2, ge=1, le=256, description="CPU threads of each worker; on a CPU part of what fixes the pixels"
    )
    format: Literal["png", "webp", "jpeg"] = Field("png", description="file format; png and webp lose nothing")
    quality: int | None = Field(None, ge=1, le=100, description="quality of jpeg (default: 95); makes webp lossy")
    embed_settings: bool = Field(
        False, description="put prompt and settings into the picture files, where everyone who gets one can read them"
    )
    c2pa_cert: Path | None = Field(
        None, description="PEM file of a certificate and its chain: pictures are signed (C2PA; needs wanbatch[c2pa])"
    )
    c2pa_key: Path | None = Field(None, description="PEM file of the certificate's private key; only workers read it")
    unit_timeout: float | None = Field(
        None, gt=0, description="seconds before a worker counts as hung; default: measured"
    )
    max_failures: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)?%?$",
        description="stop when more images than this fail in a run: a count, or a share like 5%",
    )
    circuit_breaker: Literal["on", "off"] = Field(
        "on", description="stop when images fail alike for a common cause, and leave their rows for the next run"
    )
    drain_seconds: float = Field(
        20.0, ge=0, description="at Ctrl-C or SIGTERM, seconds for workers to finish what they hold"
    )
    report: Literal["on", "off"] = Field(
        "on", description="write report.html and report.json into the output folder when the run ends"
    )
    unit_rows: int = Field(16, ge=1, le=4096, description="rows handed out, written and resumed together, at most")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileSource(settings_cls)


def failures_allowed(settings: Settings, images: int) -> int | None:
    """`max_failures` as a count; None: no limit."""
    if (given := settings.max_failures) is None:
        return None
    return int(Fraction(given[:-1]) * images / 100) if given.endswith("%") else int(Fraction(given))


def image_format(settings: Settings) -> ImageFormat:
    """Raises UserError for a quality that the format does not have."""
    try:
        return ImageFormat(settings.format, settings.quality)
    except ValueError as error:
        raise UserError(f"setting quality: {error}") from error


def signing_files(settings: Settings) -> SigningFiles | None:
    """What pictures are signed with, as absolute paths; None: they are not.

    Raises:
        UserError: Something needed for it is missing. The key is not read.
    """
    if settings.c2pa_cert is None and settings.c2pa_key is None:
        return None
    if settings.c2pa_cert is None or settings.c2pa_key is None:
        there, missing = ("key", "cert") if settings.c2pa_cert is None else ("cert", "key")
        raise UserError(f"setting c2pa_{there}: needs c2pa_{missing}, too: give --c2pa-{missing} a PEM file")
    files = SigningFiles(*(os.path.abspath(path.expanduser()) for path in (settings.c2pa_cert, settings.c2pa_key)))
    files.require_usable()
    return files


def read_settings(**given: Any) -> Settings:
    """Settings from flags (`given`; None means not given), variables and the file in the current folder.

    Raises UserError that names the field, and for an unknown one the likely one.
    """
    unknown = [
        n
        for n in os.environ
        if n.startswith(PREFIX)
        and n[len(PREFIX) :].lower() not in Settings.model_fields
        and n not in (SCHEDULED_TIME, SCHEDULED_RUN)
    ]
    if unknown:
        instead = instead_of(sorted(unknown)[0], Settings.model_fields, PREFIX)
        raise UserError(f"variable {sorted(unknown)[0]} sets nothing: {instead}")
    try:
        if given.get("lora") is not None:
            given["lora"] = named_adapters(given["lora"])  # so that those of the file are there, too
    except ValueError as error:
        raise UserError(f"setting lora: --lora: {error}") from error
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UserError(_words(error, given)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{FILE}: is not UTF-8 text: save it as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{FILE}: {error}") from error


class GivenSettings(Settings):
    """Settings of exactly the values that are given; variables and the file play no part."""

    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def recorded_settings(values: Mapping[str, Any], where: str) -> Settings:
    """The settings that an earlier run recorded; variables and the file in the current folder play no part.

    Args:
        values: by field, as JSON has them; a field that the run did not know has its default.
        where: the file that has them, for the message.
    Raises:
        UserError: if this version does not take them.
    """
    try:
        return GivenSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{where}: records settings that this version of wanbatch does not take ({name}: {first['msg']}): use "
            "the version that made the folder, or give the command of its run again"
        ) from error


def _words(error: ValidationError, given: Mapping[str, Any]) -> str:
    """The first error as a sentence: which setting, from where, what it accepts."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"{FILE}: unknown field {name!r}: {instead_of(name, Settings.model_fields)}"
    if name not in Settings.model_fields:  # a rule over several fields
        return first["msg"].removeprefix("Value error, ")
    flag, variable = f"--{name.replace('_', '-')}", f"{PREFIX}{name.upper()}"
    place = flag if given.get(name) is not None else variable if variable in os.environ else FILE
    if first["type"] == "value_error" and name not in RUN_SETTINGS:
        return f"setting {name}: {place}: {first['msg'].removeprefix('Value error, ')}"
    return f"setting {name}: {place} is {first['input']!r}: must be {accepted_instead(name, first['input'])}"


def accepted_instead(name: str, value: object) -> str:
    """What a field accepts, and the nearest of that to a value that it does not."""
    field = Settings.model_fields[name]
    if isinstance(value, str) and (words := choices(field)):
        return accepted(field) + did_you_mean(value, words)
    if name in ("width", "height"):
        with suppress(TypeError, ValueError, OverflowError):
            return f"{accepted(field)}; {nearest_sides(float(value))}"  # type: ignore[arg-type]
    return accepted(field)
