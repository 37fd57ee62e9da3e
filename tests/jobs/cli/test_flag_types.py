"""Flags mean what the same text means in a variable; their types are those of the settings' fields."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from wanbatch.jobs.cli.flag_types import (
    FieldType,
    FloatField,
    IntegerField,
    IntegerOrWord,
    ModelName,
    Word,
    flag_type,
)
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.cli.run_commands import run
from wanbatch.jobs.config.settings import Settings, read_settings

TEXTS = {
    "model": "some/model", "revision": "1a2b", "seed": "7", "width": "64", "height": "96", "steps": " 12",
    "guidance": "2", "guidance_2": "1.5", "shift": "3.5", "sampler": "deis", "schedule": "karras", "sigmas": "1, 0.5",
    "negative_prompt": "", "keywords": "red, round", "step_cache": "taylor:interval=2", "source_root": "s3://shop/folder",
    "source_fence": "s3://shop",
    "allow_http": "true", "log_prompts": "true", "device": "cpu", "preset": "fast", "precision": "bf16",
    "text_precision": "fp8", "row_adapters": "merged", "compile": "never",
    "compile_cache": "a/code", "offload": "never", "text_cache": "texts", "workers": "3", "slots": "auto",
    "threads": "4", "format": "webp", "quality": "90", "unit_timeout": "1e3", "max_failures": "5%", "unit_rows": "8",
    "creativity_steps": "respace", "prompt": "a heart, big", "creativity": "0.4", "map": "caption=prompt",
    "strict": "true", "split": "train", "embed_settings": "true", "c2pa_cert": "a/cert.pem", "c2pa_key": "a/key.pem",
    "circuit_breaker": "off", "report": "off", "drain_seconds": "2.5",
    "address": "ray://head:10001", "start_deadline": "60", "label_selector": "market-type=spot",
    "lora": "crayon=crayon.safetensors:0.8", "merge": "crayon, ink",
    "accelerator_type": "H100", "mixed_devices": "true", "model_cache": "a/models",
    "engines": "a/store", "require_engines": "true",
    "sound": "tagger", "sound_model": "a/model", "sound_phrases": "a/phrases.toml", "sound_threshold": "0.5",
    "sound_top": "2", "sound_template": "{prompt}; {sounds}", "keep_audio": "true",
}  # fmt: skip


def test_there_is_a_text_for_every_field():
    assert set(TEXTS) == set(Settings.model_fields)


@pytest.mark.parametrize("name", TEXTS)
def test_a_flag_means_what_a_variable_does(monkeypatch, name):
    field = Settings.model_fields[name]
    flag = f"--{name.replace('_', '-')}"
    arguments = ["shop.jsonl", flag] if field.annotation is bool else ["shop.jsonl", flag, TEXTS[name]]
    given = {key: value for key, value in run.make_context("run", arguments).params.items() if key in TEXTS}
    assert {key for key, value in given.items() if value is not None} == {name}
    by_flag = read_settings(**given)
    monkeypatch.setenv(f"WANBATCH_{name.upper()}", TEXTS[name])
    assert by_flag == read_settings()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("steps", IntegerField),
        ("guidance", FloatField),
        ("slots", IntegerOrWord),
        ("sigmas", FieldType),
        ("max_failures", FieldType),
        ("sampler", Word),
        ("device", Word),
        ("compile_cache", click.Path),
        ("model", ModelName),
        ("revision", type(click.STRING)),
    ],
)
def test_types_follow_the_fields(name, kind):
    assert type(flag_type(name, Settings.model_fields[name])) is kind


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("steps", (1, 1000, False, False)),
        ("seed", (0, 2**63, False, True)),
        ("unit_timeout", (0, None, True, False)),
        ("slots", (1, 64, False, False)),
    ],
)
def test_ranges_follow_the_fields(name, bounds):
    kind = flag_type(name, Settings.model_fields[name])
    assert isinstance(kind, click.IntRange | click.FloatRange)
    assert (kind.min, kind.max, kind.min_open, kind.max_open) == bounds


def test_the_help_shows_ranges_names_and_defaults():
    text = " ".join(run.get_help(click.Context(run)).split())
    assert "--slots [INTEGER|auto]" in text
    assert "[default: 4] [1<=x<=64]" in text
    assert "--preset [exact|balanced|fast]" in text
    assert "(a multiple of 16 from 16 to 4096) [16<=x<=4096]" in text
    assert "[x>0]" in text


def commands(command: click.Command) -> Iterator[click.Command]:
    """A command and all below it."""
    yield command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from commands(found)


def test_no_flag_takes_what_is_no_number():
    """Which no bound refuses: nothing is more or less than it."""
    numbers = [
        (command.name, option)
        for command in commands(main)
        for option in command.params
        if isinstance(option.type, click.FloatRange | click.types.FloatParamType)
    ]
    assert len(numbers) > 20
    for name, option in numbers:
        with pytest.raises(click.BadParameter):
            option.type.convert("nan", option, click.Context(click.Command(str(name))))


def test_no_help_shows_bounds_that_there_are_not():
    """Of any command; click shows `x<=None` for a range without bounds."""
    found = {name: command.get_help(click.Context(command)) for name, command in main.commands.items()}
    assert "--speedup" in found["tune"]
    assert [name for name, text in found.items() if "None]" in text] == []
