"""What the user may get wrong: one clear message with place and remedy, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from job_making import command, picture, snapshot

from wanbatch.jobs.cli.main import main

GOOD = {"prompt": "a heart"}


def invoke(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(main, list(map(str, arguments)))


def refused(result: Result, lines: int = 1) -> list[str]:
    """The lines of the message of a refused command: on stderr alone, without a traceback."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("wanbatch: ")
    found = result.stderr.removeprefix("wanbatch: ").splitlines()
    assert len(found) == lines, result.stderr
    return found


@pytest.fixture
def run_bad(model_folder, tmp_path):
    """`wanbatch run` of a manifest; checks that nothing at all was written."""

    def run(path: Path, *options: object, lines: int = 1, env: dict[str, str] | None = None) -> list[str]:
        before = snapshot(tmp_path)
        folders = {folder for folder in tmp_path.rglob("*") if folder.is_dir()}
        result = invoke("run", path, "--out", "out", "--model", model_folder, *options, env=env)
        found = refused(result, lines)
        assert not (tmp_path / "out").exists()
        assert snapshot(tmp_path) == before
        assert {folder for folder in tmp_path.rglob("*") if folder.is_dir()} == folders
        return found

    return run


# ---- manifests


JSONL = {
    "not JSON": ([GOOD] * 6 + ['{"prompt": "a heart"'], "shop.jsonl:7: is not JSON", "write one object a line"),
    "creativity 1.3": ([{"image": "a.png", "creativity": 1.3}], "shop.jsonl:1: creativity is 1.3", "from 0"),
    "creativity NaN": (['{"image": "a.png", "creativity": NaN}'], "shop.jsonl:1: is not valid: NaN", "use null or"),
    "creativity alone": ([{**GOOD, "creativity": 0.5}], "shop.jsonl:1: creativity is 0.5", "give an image, or drop"),
    "duplicate ids": (
        [{**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"}],
        "shop.jsonl:3: id 'a' is already at shop.jsonl:1",
        "give each row its own",
    ),
    "an id that num_images makes": (
        [{**GOOD, "id": "a", "num_images": 2}, {**GOOD, "id": "a-1"}],
        "shop.jsonl:2: id 'a-1' is also image 1 of 'a'",
        "rename one",
    ),
    "bad id": ([{**GOOD, "id": "../up"}], "shop.jsonl:1: id is '../up'", "characters A-Z a-z 0-9 . _ -"),
    "size": ([{**GOOD, "width": 100, "height": 64}], "shop.jsonl:1: width is 100", "a multiple of 32"),
    "half a size": ([{**GOOD, "width": 64}], "shop.jsonl:1: width is given without height", "give both"),
    "group of one": (
        [{"blend_group": "g", "image": "a.png"}, GOOD],
        "shop.jsonl:1: blend group 'g' has only this row",
        "it needs two or more",
    ),
    "clashing prompts": (
        [{"blend_group": "g", "image": "a.png", "prompt": p} for p in ("a heart", "a star")],
        "shop.jsonl:2: blend group 'g' has clashing values of prompt: 'a star' here, 'a heart' at shop.jsonl:1",
        "give it once or make it equal",
    ),
    "weight 0": (
        [{"images": ["a.png", "b.png"], "blend_weights": [1, 0]}],
        "shop.jsonl:1: blend_weights[1] is 0",
        "drop it from images",
    ),
    "group weight 0": (
        [{"blend_group": "g", "image": "a.png", "blend_weight": 0}, {"blend_group": "g", "image": "b.png"}],
        "shop.jsonl:1: blend_weight is 0",
        "drop its row",
    ),
    "too few weights": (
        [{"images": ["a.png", "b.png"], "blend_weights": [1]}],
        "shop.jsonl:1: has 1 blend_weights for 2 images",
        "one weight for each",
    ),
    "wrong type": ([{**GOOD, "steps": "many"}], "shop.jsonl:1: steps is 'many'", "an integer from 1 to 1000"),
    "fraction of a step": ([{**GOOD, "steps": 2.5}], "shop.jsonl:1: steps is 2.5", "an integer from 1 to 1000"),
    "a column of two types": (
        [{**GOOD, "price": 5}, {**GOOD, "price": "5 EUR"}],
        "shop.jsonl:2: column 'price' is '5 EUR' here but int64 in the lines before",
        "use one type",
    ),
    "nothing asked": ([{"note": "x"}], "shop.jsonl:1: asks for nothing", "give a prompt"),
    "a column of the output": ([{**GOOD, "sha256": "x"}], "shop.jsonl:1: column 'sha256'", "rename it"),
    "source outside": ([{"image": "../a.png"}], "shop.jsonl:1: image '../a.png' leaves the folder", "--source-root"),
    "unknown sampler": ([{**GOOD, "sampler": "magic"}], "shop.jsonl:1: sampler 'magic' is unknown", "unipc"),
    "unknown schedule": (
        [GOOD, {**GOOD, "schedule": "cosine"}],
        "shop.jsonl:2: schedule 'cosine' is unknown",
        "use one of linear, karras, exponential, beta",
    ),
    "no steps": ([{**GOOD, "steps": 0}], "shop.jsonl:1: steps is 0", "an integer from 1 to 1000"),
    "sigmas that rise": (
        [{**GOOD, "sigmas": [0.5, 0.9]}],
        "shop.jsonl:1: sigmas is [0.5, 0.9]",
        "below the one before",
    ),
    "equal sigmas": ([{**GOOD, "sigmas": [1, 0.5, 0.5]}], "shop.jsonl:1: sigmas is", "below the one before"),
    "a sigma above 1": ([{**GOOD, "sigmas": [1.5, 0.5]}], "shop.jsonl:1: sigmas[0] is 1.5", "noise levels in (0, 1]"),
    "the final 0": ([{**GOOD, "sigmas": [1, 0.5, 0]}], "shop.jsonl:1: sigmas[2] is 0", "without the final 0"),
    "no sigmas": ([{**GOOD, "sigmas": []}], "shop.jsonl:1: sigmas is []", "a list of noise levels"),
    "sigmas and steps": (
        [{**GOOD, "sigmas": [1, 0.5], "steps": 2}],
        "shop.jsonl:1: has both sigmas and steps",
        "drop one of the two",
    ),
    "sigmas and schedule": (
        [{**GOOD, "sigmas": [1, 0.5], "schedule": "beta"}],
        "shop.jsonl:1: has both sigmas and schedule",
        "drop one of the two",
    ),
    "creativity below the schedule": (
        [{"image": "a.png", "creativity": 0.2, "steps": 4, "shift": 5}],
        "shop.jsonl:1: creativity 0.2 is below the last noise level of 4 steps with the linear schedule and shift 5",
        "the lowest that works is 0.626, or 0",
    ),
    "creativity below the sigmas": (
        [{"image": "a.png", "creativity": 0.4, "sigmas": [1, 0.7]}],
        "shop.jsonl:1: creativity 0.4 is below the last noise level of its sigmas",
        "the lowest that works is 0.7, or 0",
    ),
    "style": ([{**GOOD, "style": "ink"}], "shop.jsonl:1: style: this version has no adapters", "remove the column"),
    "loras": (
        [{**GOOD, "loras": [{"name": "ink", "weight": 0.5}]}],
        "shop.jsonl:1: loras: this version has no adapters",
        "remove the column",
    ),
    "audio": ([{**GOOD, "audio": "a.wav"}], "shop.jsonl:1: audio: this version has no sound", "remove the column"),
    "empty": ([], "shop.jsonl: has no rows", "write one row for each image"),
    "blank lines": (["", "  "], "shop.jsonl: has no rows", "write one row for each image"),
}


@pytest.mark.parametrize("case", JSONL)
def test_jsonl(run_bad, manifest, case):
    rows, place, remedy = JSONL[case]
    [message] = run_bad(Path(manifest(*rows).name))
    assert message.startswith(place)
    assert remedy in message


@pytest.mark.parametrize("case", JSONL)
def test_plan_refuses_the_same(manifest, model_folder, tmp_path, case):
    rows, place, _ = JSONL[case]
    path = manifest(*rows)
    [message] = refused(invoke("plan", path.name, "--model", model_folder))
    assert message.startswith(place)
    assert list(tmp_path.iterdir()) == [path]


PARQUET = {
    "a column of the wrong type": (
        {"prompt": ["x"], "creativity": ["0.5"]},
        "shop.parquet: column 'creativity' is string: must be a number",
    ),
    "numbers as prompts": ({"prompt": [1, 2]}, "shop.parquet: column 'prompt' is int64: must be text"),
    "creativity": ({"image": ["a.png"] * 2, "creativity": [0.8, 1.3]}, "shop.parquet row 1: creativity is 1.3"),
    "NaN": ({"image": ["a.png"] * 2, "creativity": [0.8, float("nan")]}, "shop.parquet row 1: creativity is nan"),
    "duplicate ids": (
        {"prompt": ["x"] * 3, "id": ["a", "b", "a"]},
        "shop.parquet row 2: id 'a' is already at shop.parquet row 0: give each row its own",
    ),
    "sampler": (
        {"prompt": ["x"] * 2, "sampler": ["unipc", "magic"]},
        "shop.parquet row 1: sampler 'magic' is unknown: use one of",
    ),
    "schedule": (
        {"prompt": ["x"] * 2, "schedule": [None, "cosine"]},
        "shop.parquet row 1: schedule 'cosine' is unknown: use one of",
    ),
    "sigmas of text": ({"prompt": ["x"], "sigmas": [["1"]]}, "shop.parquet: column 'sigmas' is list<"),
    "sigmas that do not fall": (
        {"prompt": ["x"] * 2, "sigmas": [[1.0, 0.5], [0.5, 0.5]]},
        "shop.parquet row 1: sigmas is [0.5, 0.5]: must be a list of noise levels in (0, 1], each at least 0.00001",
    ),
    "creativity below the schedule": (
        {"image": ["a.png"] * 2, "creativity": [0.9, 0.1], "steps": [2, 2]},
        "shop.parquet row 1: creativity 0.1 is below the last noise level of 2 steps with the linear schedule",
    ),
    "style": ({"prompt": ["x"], "style": ["ink"]}, "shop.parquet row 0: style: this version has no adapters yet"),
    "empty": ({"prompt": pa.array([], pa.string())}, "shop.parquet: has no rows"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet(run_bad, tmp_path, case):
    columns, expected = PARQUET[case]
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    [message] = run_bad(Path("shop.parquet"))
    assert message.startswith(expected)


def test_all_problems_are_told_at_once(run_bad, manifest):
    rows = [
        {**GOOD, "creativity": 2, "seed": -1},
        "{",
        GOOD,
        {**GOOD, "width": 33, "height": 64},
        {"blend_group": "g", "image": "a.png"},
    ]
    found = run_bad(manifest(*rows), lines=5)
    places = [message.split("shop.jsonl:")[1].split(": ")[:2] for message in found]
    assert [(place, text.split()[0]) for place, text in places] == [
        *(("1", "creativity"), ("1", "seed"), ("2", "is"), ("4", "width"), ("5", "blend")),
    ]


def test_all_rows_the_version_cannot_make_are_told_at_once(run_bad, manifest):
    found = run_bad(manifest({**GOOD, "style": "ink", "sampler": "x"}, GOOD, {**GOOD, "sampler": "y"}), lines=3)
    assert ["shop.jsonl:1: " in found[0], "shop.jsonl:1: " in found[1], "shop.jsonl:3: " in found[2]] == [True] * 3


def test_many_problems_are_cut(run_bad, manifest):
    found = run_bad(manifest(*[{**GOOD, "steps": 0}] * 500), lines=21)
    assert found[-1] == "... and 480 more: `wanbatch plan MANIFEST --json` lists them all"


def test_no_such_manifest(run_bad, tmp_path):
    [message] = run_bad(Path("nowhere.jsonl"))
    assert message.startswith("nowhere.jsonl: ")


@pytest.mark.parametrize("name", ["shop.csv", "shop"])
def test_not_a_manifest(run_bad, tmp_path, name):
    (tmp_path / name).write_text("prompt\na heart\n")
    [message] = run_bad(Path(name))
    assert message.startswith(f"{name}: ")
    assert ".jsonl" in message


def test_a_damaged_parquet_file(run_bad, tmp_path):
    pq.write_table(pa.table({"prompt": ["a heart"] * 1000}), tmp_path / "shop.parquet")
    data = (tmp_path / "shop.parquet").read_bytes()
    (tmp_path / "shop.parquet").write_bytes(data[:-100])
    [message] = run_bad(Path("shop.parquet"))
    assert "shop.parquet: cannot be read as Parquet" in message


def test_a_manifest_that_may_not_be_read(run_bad, manifest):
    if os.geteuid() == 0:
        path = manifest(GOOD).parent / "folder.jsonl"
        path.mkdir()  # the superuser may read anything but a folder
    else:
        path = manifest(GOOD)
        path.chmod(0)
    [message] = run_bad(path)
    assert str(path) in message


# ---- settings


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steps", "0"], "setting steps: "),
        (["--steps", "many"], "setting steps: "),
        (["--width", "100"], "setting width: "),
        (["--guidance", "nan"], "setting guidance: "),
        (["--guidance", "-1"], "setting guidance: "),
        (["--shift", "0"], "setting shift: "),
        (["--seed", "-1"], "setting seed: "),
        (["--workers", "0"], "setting workers: "),
        (["--slots", "0"], "setting slots: --slots is '0': must be a whole number from 1 to 64, or auto"),
        (["--unit-rows", "0"], "setting unit_rows: "),
        (["--precision", "int8"], "setting precision: "),
        (["--format", "gif"], "setting format: "),
        (["--quality", "90"], "setting quality: PNG loses nothing"),
        (["--device", "tpu"], "setting device: --device is 'tpu': must be auto, cpu, cuda"),
        (["--max-failures", "lots"], "setting max_failures: --max-failures is 'lots': must be text like 20 or 5%"),
        (["--sampler", "magic"], "setting sampler: 'magic' is unknown: use one of unipc"),
        (["--schedule", "magic"], "setting schedule: 'magic' is unknown: use one of linear"),
        (["--sigmas", "1,0.5,0.7"], "setting sigmas: --sigmas: sigmas must be noise levels in (0, 1]"),
        (["--sigmas", "1,half"], "setting sigmas: --sigmas is 'half': must be a list of noise levels"),
        (["--sigmas", "1,0.5", "--steps", "2"], "setting sigmas: says every noise level, and setting steps too"),
        (["--step-cache", "magic"], "step_cache 'magic': unknown 'magic'; known: none, deepcache"),
        (
            ["--step-cache", "deepcache:blocks=4"],
            "step_cache 'deepcache:blocks=4': asks for blocks 0 to 3, but the model",
        ),
        (["--model", "/nowhere/at/all"], "no model folder /nowhere/at/all"),
    ],
)
def test_bad_flags(run_bad, manifest, options, told):
    [message] = run_bad(manifest(GOOD), *options)
    assert message.startswith(told)


def test_a_source_root_that_is_not_there(run_bad, manifest):
    [message] = run_bad(manifest(GOOD), "--source-root", "nowhere")
    assert "nowhere: is not a folder: give --source-root an existing one" in message


def test_a_gpu_that_is_not_there(run_bad, manifest, monkeypatch):
    import torch

    if torch.cuda.is_available():
        assert invoke("run", manifest(), "--device", "cuda").exit_code == 2  # for another reason: it is empty
        return
    [message] = run_bad(manifest(GOOD), "--device", "cuda")
    assert "torch sees no GPU; use --device cpu or auto" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stepz = 5\n", ["wanbatch.toml: unknown field 'stepz'; known: ", "unit_rows", "steps"]),
        ("steps = 'many'\n", ["setting steps: "]),
        ("steps = \n", ["wanbatch.toml: "]),
        ("[run]\nsteps = 5\n", ["wanbatch.toml: unknown field 'run'"]),
    ],
)
def test_bad_settings_file(run_bad, manifest, tmp_path, text, told):
    (tmp_path / "wanbatch.toml").write_text(text)
    [message] = run_bad(manifest(GOOD))
    assert all(part in message for part in told)


def test_an_unknown_variable(run_bad, manifest):
    [message] = run_bad(manifest(GOOD), env={"WANBATCH_STEPZ": "5"})
    assert message.startswith("variable WANBATCH_STEPZ sets nothing; known: ")
    assert "WANBATCH_STEPS" in message


def test_a_bad_variable(run_bad, manifest):
    [message] = run_bad(manifest(GOOD), env={"WANBATCH_STEPS": "five"})
    assert message.startswith("setting steps: ")
    assert "'five'" in message


def test_an_unknown_flag_and_a_missing_argument(manifest):
    for arguments in (["run", manifest(GOOD), "--stepz", "5"], ["run"], ["nothing"]):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


# ---- the output folder


def test_a_folder_with_other_files(model_folder, manifest, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    [message] = refused(invoke("run", manifest(GOOD), "--out", out, "--model", model_folder))
    assert message == f"{out}: holds other files: choose a new or empty output folder"
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder(model_folder, manifest, tmp_path):
    (tmp_path / "out").write_text("a file")
    [message] = refused(invoke("run", manifest(GOOD), "--out", "out", "--model", model_folder))
    assert "is not a folder: choose another output folder" in message
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_of_a_run_with_other_settings(mixed, model_folder):
    before = snapshot(mixed.out)
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--steps", 5, "--seed", 9]
    [message] = refused(invoke("run", mixed.manifest, "--out", mixed.out, *options))
    assert f"{mixed.out}: was filled with other settings: steps was 2, now 5." in message
    assert "choose another output folder" in message
    assert snapshot(mixed.out) == before


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"]])
def test_status_of_something_else(tmp_path, arguments):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere"):
        [message] = refused(invoke(*arguments, name))
        assert message.startswith(f"{name}: is not an output folder of wanbatch")


@pytest.mark.parametrize("name", ["folder", "nowhere"])
def test_report_of_something_else(tmp_path, name):
    (tmp_path / "folder").mkdir()
    [message] = refused(invoke("report", name))
    assert message.startswith(f"{name}: has no pictures")


@pytest.mark.parametrize("target", ["folder", "blocked/sheet.png", "/proc/sheet.png"])
def test_a_report_that_cannot_be_written(mixed, tmp_path, target):
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "folder").mkdir()
    [message] = refused(invoke("report", mixed.out, "--sheet", target))
    assert message.startswith(f"{target}: cannot be written")


# ---- the real command


def test_the_real_command_says_it_in_one_line(manifest, model_folder, tmp_path):
    path = manifest(*[GOOD] * 6, "{oops}", name="goods.jsonl")
    ended = command("run", path, "--out", "out", "--model", model_folder, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"wanbatch: {path}:7: is not JSON")
    assert len(ended.err.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["goods.jsonl"]


def test_the_real_command_with_a_bad_model_folder(manifest, model_folder, tmp_path):
    """Weights of another format are not loaded."""
    folder = tmp_path / "model"
    for part in ("vae", "transformer", "scheduler", "text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
        for config in (model_folder / part).glob("*.json"):
            (folder / part / config.name).write_bytes(config.read_bytes())
    (folder / "model_index.json").write_bytes((model_folder / "model_index.json").read_bytes())
    ended = command("run", manifest(GOOD), "--out", "out", "--model", folder, cwd=tmp_path)
    assert ended.code == 2
    assert "no .safetensors file: the weights are in another format, or were not downloaded" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_refused_that_is_good(manifest, model_folder, tmp_path):
    """The tests above would also pass if everything were refused."""
    picture(tmp_path / "a.png", 64, 64)
    rows = [GOOD, {"image": "a.png", "creativity": 0.7, "sampler": "euler", "width": 64, "height": 32, "any": [1]}]
    rows += [
        {**GOOD, "schedule": "beta", "sampler": "heun"},
        {"image": "a.png", "creativity": 0.2, "sigmas": [1, 0.2]},
    ]
    result = invoke("plan", manifest(*rows), "--model", model_folder, "--json", "--steps", 3)
    assert result.exit_code == 0, result.output
    described = json.loads(result.stdout)
    assert (described["images"], described["model_evaluations"]) == (4, 3 + 1 + 5 + 1)
