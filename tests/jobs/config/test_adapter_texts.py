"""Adapters in flags, variables and the settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.config.adapter_texts import Registered, in_any_folder, registered
from wanbatch.jobs.config.settings import read_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", None, 1.0)),
        ("a.safetensors:0.5", ("a.safetensors", None, 0.5)),
        ("folder:of/a.safetensors:-1", ("folder:of/a.safetensors", None, -1.0)),
        ("owner/name@v1:0.5", ("owner/name", "v1", 0.5)),
        ("owner/name/a.safetensors", ("owner/name/a.safetensors", None, 1.0)),
        ("me@home/a.safetensors", ("me@home/a.safetensors", None, 1.0)),
    ],
)
def test_path_revision_and_weight(text, expected):
    assert registered(text) == Registered(*expected)


def test_flags_add_to_the_file_and_win_over_it(monkeypatch):
    Path("wanbatch.toml").write_text(
        'merge = ["ink"]\n[adapters]\nink = "ink.safetensors"\ncrayon = "old.safetensors"\n'
        'neon = { path = "owner/neon", revision = "v2", weight = 0.5 }\n'
    )
    found = read_settings(lora=("crayon=new.safetensors:0.8",))
    assert found.lora == {
        "ink": "ink.safetensors",
        "crayon": "new.safetensors:0.8",
        "neon": "owner/neon@v2:0.5",
    }
    assert found.merge == ("ink",)
    monkeypatch.setenv("WANBATCH_LORA", "a=a.safetensors,b=b.safetensors:2")
    monkeypatch.setenv("WANBATCH_MERGE", "b")
    assert read_settings().lora["b"] == "b.safetensors:2"
    assert read_settings().merge == ("b",)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a=x", "a=y"), "setting lora: --lora: two adapters are called 'a', x and y: give each a name of its own"),
        (("a",), "'a' must be NAME=PATH or NAME=PATH:WEIGHT"),
        (("a=x:900",), "the weight of x is 900: must be a number from -100 to 100"),
        (("a=x:nan",), "the weight of x is nan"),
    ],
)
def test_bad_flags(flags, said):
    with pytest.raises(UserError) as error:
        read_settings(lora=flags)
    assert said in str(error.value)


def test_bad_tables():
    for entry in ('{ pth = "x" }', "3"):
        Path("wanbatch.toml").write_text(f"[adapters]\nink = {entry}\n")
        with pytest.raises(UserError, match=r"wanbatch.toml: \[adapters\] ink: must be a path, or a table with path"):
            read_settings()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('steps = 3\n[adapters] # mine\nink = "a"\nred = "b"\n"ink" = "c"\nblue = "d"\n', 5),
        ('[adapters]\nink = "a"\nink = { path = "b" }', 3),
        ('[adapters.ink]\npath = "a"\n\n[adapters.ink]\npath = "b"\n', 4),
    ],
)
def test_two_adapters_of_one_name_in_the_file(text, line):
    Path("wanbatch.toml").write_text(text)
    said = f"wanbatch.toml: two adapters are called 'ink', the second in line {line}: give each a name of its own"
    with pytest.raises(UserError) as error:
        read_settings()
    assert str(error.value) == said


def test_recorded_paths_hold_in_any_folder(tmp_path, monkeypatch):
    (tmp_path / "ink.safetensors").touch()
    assert in_any_folder("ink.safetensors:0.5") == f"{tmp_path}/ink.safetensors:0.5"
    assert in_any_folder("owner/name@v1:0.5") == "owner/name@v1:0.5"
