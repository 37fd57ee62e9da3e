"""`wanbatch adapters`, and every example of docs/adapters.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from adapter_making import LAYOUTS, random_pairs, save_adapter
from command_line import invoke, refused
from diffusers import WanPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import save_random_a14b

from wanbatch.jobs.cli.main import main
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.loading.registry import TINY, find

PAGE = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def config_of(folder) -> dict:
    return json.loads((Path(folder) / "transformer" / "config.json").read_text())


@pytest.fixture
def config(model_folder) -> dict:
    return config_of(model_folder)


def test_every_example_of_the_page(tmp_path, monkeypatch):
    config = config_of(find(TINY).folder)
    for seed, name in enumerate(("crayon", "ink", "few")):
        save_adapter(tmp_path / f"{name}.safetensors", config, random_pairs(config, 2, seed))
    commands = []
    for name, language, text in BLOCK.findall(PAGE):
        if name:
            Path(name).write_text(text, encoding="utf-8")
        elif language == "sh":
            commands += [shlex.split(line) for line in text.splitlines()]
    assert len(commands) == 6
    for command in commands:
        if command[1] == "run":  # that it is understood; what it does is tested where runs are
            name, found, rest = main.resolve_command(main.make_context("wanbatch", ["plan"]), command[1:])
            assert len(found.make_context(name, rest).params["lora"]) == 2
            continue
        done = invoke(*command[1:])
        assert done.exit_code == 0, f"{command}: {done.output}"
        if "--merge" in command:
            assert "adapter   few, merged into the model: 80 of 80 layers, rank 2, scale 1.0" in done.output
            assert "adapter   crayon, for rows that name it: 80 of 80 layers" in done.output


def test_list_says_what_is_registered_what_comes_with_the_model_and_what_is_wrong(model_folder, config, tmp_path):
    path = save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config))
    shipped = save_adapter(model_folder / "adapters" / "own.safetensors", config, random_pairs(config))
    try:
        arguments = ("list", "--model", model_folder, "--lora", f"ink={path}:0.5", "--lora", "no=no.safetensors")
        said = invoke("adapters", *arguments).output
        assert "own: 30 of 30 layers, rank 4, scale 1.0\n" in said
        assert "ink: 30 of 30 layers, rank 4, scale 1.0, weight 0.5\n" in said
        assert "no: adapter no.safetensors: there is no such file" in said
        found = json.loads(invoke("adapters", *arguments, "--json").output)["adapters"]
        assert [one["name"] for one in found] == ["own", "ink", "no"]
        assert found[0]["path"] == str(shipped)
        before = find(str(model_folder)).digest
    finally:
        shipped.unlink()
        shipped.parent.rmdir()
    assert find(str(model_folder)).digest == before  # what comes with a model does not make it another one
    assert invoke("adapters", "list", "--model", model_folder).output.startswith("no adapters: register one")


def test_show_says_what_a_file_holds(model_folder, config, tmp_path):
    path = save_adapter(tmp_path / "ink.safetensors", config, random_pairs(config), "musubi", ss_steps="100")
    said = invoke("adapters", "show", path, "--model", model_folder).output
    assert "layout    kohya (musubi-tuner)\n" in said
    assert "changes   30 of 30 layers, rank 4, scale 0.5 of" in said
    assert "header    ss_steps: 100" in said
    found = json.loads(invoke("adapters", "show", path, "--model", model_folder, "--json").output)
    assert (found["rows"], found["metadata"]) == (True, {"ss_steps": "100"})
    save_file({"diffusion_model.blocks.0.norm3.diff": torch.ones(96)}, tmp_path / "norms.safetensors")
    said = invoke("adapters", "show", tmp_path / "norms.safetensors", "--model", model_folder).output
    assert "changes   0 of 30 layers, scale 1.0, full difference, 1 biases, norms or modulations" in said
    assert "rows      only with --merge: it changes blocks.0.norm2" in said
    (message,) = refused(invoke("adapters", "show", "none.safetensors", "--model", model_folder))
    assert "there is no such file" in message


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("source", ["diffusers-alpha", "musubi", "diffsynth"])
def test_conversion_keeps_every_number(source, layout, model_folder, config, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", config, random_pairs(config), source, ss_output_name="a")
    out = tmp_path / "b.safetensors"
    done = invoke("adapters", "convert", path, out, "--to", layout, "--model", model_folder, "--json")
    said = {"file": str(out), "files": [str(out)], "to": layout, "from": None}
    assert json.loads(done.stdout) | {"from": None} == said
    scale = 0.5 if LAYOUTS[source].alpha else 1.0
    assert f"30 of 30 layers, rank 4, scale {scale}" in done.output
    layers = ModelLayers.of_folder(model_folder, "model")
    (before,), (after,) = (load_tensors(read_adapter(file, layers)) for file in (path, out))
    for name, pair in before.pairs.items():
        assert torch.equal(pair.down, after.pairs[name].down)
        assert torch.equal(pair.up, after.pairs[name].up)
        assert pair.scale == after.pairs[name].scale
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["ss_output_name"] == "a"
    (message,) = refused(invoke("adapters", "convert", path, out, "--to", layout, "--model", model_folder))
    assert "is there already" in message


def test_a_folder_is_made_for_a_converted_adapter_and_one_that_cannot_be_is_named(model_folder, config, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", config, random_pairs(config), "musubi")
    there = tmp_path / "new" / "folder" / "b.safetensors"
    done = invoke("adapters", "convert", path, there, "--to", "kohya", "--model", model_folder)
    assert done.exit_code == 0, done.output
    assert [one.name for one in there.parent.iterdir()] == ["b.safetensors"]
    command = ("adapters", "convert", path, path / "c.safetensors", "--to", "kohya", "--model", model_folder)
    (message,) = refused(invoke(*command))
    assert message == f"{path / 'c.safetensors'}: cannot be written (File exists): choose another path"


@pytest.fixture(scope="module")
def a14b(model_folder, tmp_path_factory) -> Path:
    parts = WanPipeline.from_pretrained(model_folder).components
    return save_random_a14b(tmp_path_factory.mktemp("a14b") / "model", parts)


def converted_of_a14b(a14b: Path, path: Path, out: Path, layout: str) -> tuple[list[str], list[dict]]:
    """Convert an adapter for A14B: the names of the files, and what a run reads for each transformer."""
    command = ("adapters", "convert", path, out, "--to", layout, "--model", a14b)
    done = json.loads(invoke(*command, "--json").stdout)
    (message,) = refused(invoke(*command))
    assert f"{done['file']}: is there already" in message
    read = read_adapter(done["file"], ModelLayers.of_folder(a14b, "model", two_experts=True))
    changes = [{name: pair.delta() for name, pair in one.pairs.items()} for one in load_tensors(read)]
    return [Path(file).name for file in done["files"]], changes


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "kohya"])
def test_adapters_for_both_transformers_are_converted(layout, a14b, config, tmp_path):
    high, low = (random_pairs(config, 2, seed) for seed in (1, 2))
    wanted = [{name: up @ down for name, (down, up) in pairs.items()} for pairs in (high, low)]
    for name, pairs in (("high_noise", high), ("low_noise", low)):
        save_adapter(tmp_path / f"ink_{name}.safetensors", config, pairs, "musubi", ss_output_name=name)
    pair = ["pair_high_noise.safetensors", "pair_low_noise.safetensors"]
    given, out = tmp_path / "ink_low_noise.safetensors", tmp_path / "pair.safetensors"
    names, found = converted_of_a14b(a14b, given, out, layout)
    assert names == pair
    for name, said in zip(names, ("high_noise", "low_noise"), strict=True):
        with safe_open(tmp_path / name, framework="pt") as file:
            assert file.metadata()["ss_output_name"] == said
    assert all(torch.allclose(ours[name], one) for ours, theirs in zip(found, wanted, strict=True)
               for name, one in theirs.items())  # fmt: skip

    keyed = {}  # one file that names both
    for number, pairs in ((1, high), (2, low)):
        for name, (down, up) in pairs.items():
            stem = f"diffusion_model.transformer_{number}.{name}"
            keyed |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(keyed, tmp_path / "both.safetensors")
    out = tmp_path / "two_low_noise.safetensors"
    names, found = converted_of_a14b(a14b, tmp_path / "both.safetensors", out, layout)
    assert names == ["two_high_noise.safetensors", "two_low_noise.safetensors"]
    assert torch.allclose(found[1]["blocks.0.attn1.to_q"], wanted[1]["blocks.0.attn1.to_q"])

    (tmp_path / "ink_low_noise.safetensors").unlink()
    names, found = converted_of_a14b(a14b, tmp_path / "ink_high_noise.safetensors", tmp_path / "half.st", layout)
    assert names == ["half_high_noise.st"]
    assert found[1] == {}
    save_adapter(tmp_path / "all.safetensors", config, high)
    names, found = converted_of_a14b(a14b, tmp_path / "all.safetensors", tmp_path / "one.safetensors", layout)
    assert names == ["one.safetensors"]
    assert found[0].keys() == found[1].keys() == wanted[0].keys()


def test_differences_are_converted_where_there_is_a_name_for_them(model_folder, config, tmp_path):
    keys = {
        "diffusion_model.blocks.0.norm3.diff_b": torch.randn(96),
        "diffusion_model.blocks.1.diff_m": torch.randn(1, 6, 96),
        "diffusion_model.head.diff_m": torch.randn(1, 2, 96),
        "diffusion_model.head.head.diff": torch.randn(32, 96),
    }
    save_file(keys, tmp_path / "a.safetensors")
    arguments = (
        "adapters",
        "convert",
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
        "--model",
        model_folder,
    )
    assert invoke(*arguments, "--to", "comfyui").exit_code == 0
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        assert {key: file.get_tensor(key).tolist() for key in file.keys()} == {  # noqa: SIM118
            key: value.tolist() for key, value in keys.items()
        }
    (tmp_path / "b.safetensors").unlink()
    for layout in ("diffusers", "kohya"):
        (message,) = refused(invoke(*arguments, "--to", layout))
        assert "convert it to comfyui" in message
