"""Which adapters made a picture: in its row, in the folder's card, and in what follows from both."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial

import pyarrow.parquet as pq
import pytest
from adapter_making import random_pairs, save_adapter
from click.testing import CliRunner
from job_making import picture, table, write_jsonl
from local_pool import run_without_ray as run

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.comparison.compare import compare
from wanbatch.jobs.comparison.text import lines_of
from wanbatch.jobs.driver.run import retry
from wanbatch.jobs.planning import plan as planning
from wanbatch.jobs.reporting.text_summary import summary_text
from wanbatch.manifests.dataset.mark_reading import read_marks
from wanbatch.manifests.records import DATA_SCHEMA
from wanbatch.manifests.sharing.facts import facts_of
from wanbatch.manifests.sharing.hub_card import Licences, hub_card
from wanbatch.manifests.sharing.pictures import contents_of

ROWS = [
    {"id": "plain", "prompt": "a star"},
    {"id": "styled", "prompt": "a star", "style": "flat", "loras": [{"name": "ink", "weight": 0.5}]},
]


@pytest.fixture
def files(model_folder, tmp_path) -> dict[str, str]:
    """Adapter files by name."""
    config = json.loads((model_folder / "transformer" / "config.json").read_text())
    names = ("flat", "ink", "night")
    return {
        name: str(save_adapter(tmp_path / f"{name}.safetensors", config, random_pairs(config, 4, seed)))
        for seed, name in enumerate(names)
    }


@pytest.fixture
def of_before(monkeypatch):
    """Runs in it make rows as versions did that did not record adapters."""

    def call(made, *args, **more):
        with monkeypatch.context() as patch:
            patch.setattr(planning, "with_adapters", lambda images, adapters: images)
            return made(*args, **more)

    return call


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded(out) -> dict[str, list[dict] | None]:
    return {row["id"]: row.get("adapters") for row in table(out, "data").to_pylist()}


def compared(*folders) -> list[str]:
    return list(lines_of(compare(*folders, ["psnr"]).data, "c.html"))


def test_files_and_weights_in_effect_are_in_rows_card_and_export(run_fast, settings, files, tmp_path):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "out"
    given = {"flat": files["flat"], "ink": files["ink"] + ":0.4", "night": files["night"]}
    run_fast(manifest, out, settings(lora=given, merge=["night"], embed_settings=True))
    hashes = {name: sha256(path) for name, path in files.items()}
    merged = {"name": "night", "weight": 1.0, "sha256": hashes["night"], "merged": True}
    own = [("flat", 1.0), ("ink", 0.2)]
    of_row = [{"name": name, "weight": weight, "sha256": hashes[name], "merged": False} for name, weight in own]
    assert recorded(out) == {"plain": [merged], "styled": [merged, *of_row]}
    card = (out / "README.md").read_text()
    assert f"| `merged_adapters` | `night at 1 (SHA-256 {hashes['night']}, merged)` |" in card
    assert "| `row_adapters` | `added` |" in card
    assert "| `adapters` | the adapters (LoRA) that were in effect" in card
    contents = contents_of(out, False)
    published = hub_card("me/set", contents, facts_of(contents), Licences("cc0-1.0"), 1)
    assert f"`night at 1 (SHA-256 {hashes['night']}, merged)`" in published
    ended = CliRunner().invoke(main, ["export", str(out), "--format", "imagefolder", "--to", str(tmp_path / "given")])
    assert ended.exit_code == 0, ended.output
    lines = (tmp_path / "given" / "train" / "metadata.jsonl").read_text().splitlines()
    assert {row["id"]: row["adapters"] for row in map(json.loads, lines)} == recorded(out)
    said = CliRunner().invoke(main, ["origin", str(tmp_path / "given" / "train" / "styled.png"), "--in", str(out)])
    words = [f"{name} at {weight:g} (SHA-256 {hashes[name][:12]})" for name, weight in own]
    assert (
        f"made with the adapters night at 1 (SHA-256 {hashes['night'][:12]}, merged); {'; '.join(words)}\n"
        in said.output
    )
    marks = read_marks(tmp_path / "given" / "train" / "styled.png")
    assert marks.settings["adapters"] == recorded(out)["styled"]
    assert marks.parameters.startswith("a star <lora:night:1> <lora:flat:1> <lora:ink:0.2>\n")


def test_the_summary_and_the_log_say_how_much_each_adapter_changes(run_fast, settings, files, tmp_path):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "out"
    given = {"flat": files["flat"], "ink": files["ink"] + ":0.4", "night": files["night"]}
    summary = run_fast(manifest, out, settings(lora=given, merge=["night"])).summary
    changes = "30 of 30 layers, rank 4, scale 1.0"
    assert [line for line in summary_text(summary).splitlines() if line.startswith("  adapter")] == [
        f"  adapter   night, merged into the model: {changes}",
        f"  adapter   flat, for rows that name it: {changes}",
        f"  adapter   ink, for rows that name it: {changes}, weight 0.4",
    ]
    events = map(json.loads, (out / "_wanbatch" / "log.jsonl").read_text().splitlines())
    logged = [(event["name"], event["coverage"]) for event in events if event["event"] == "adapter"]
    assert logged == [(name, changes) for name in ("night", "flat", "ink")]


def test_without_adapters_nothing_shows_that_there_is_such_a_column(run_fast, settings, files, tmp_path):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", ROWS[:1]), tmp_path / "out"
    run_fast(manifest, out, settings(lora=files))
    assert "adapters" not in table(out, "data").column_names
    assert "adapters" not in (out / "README.md").read_text()
    write_jsonl(manifest, ROWS)
    assert run_fast(manifest, out, settings(lora=files)).summary.made_now == 1
    assert recorded(out)["plain"] is None
    assert [one["name"] for one in recorded(out)["styled"]] == ["flat", "ink"]
    schemas = [pq.read_schema(part) for part in sorted((out / "data").iterdir())]
    assert schemas[0].equals(schemas[1])


def test_other_files_and_weights_are_told_by_compare(run_fast, settings, files, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", ROWS)
    outs = [tmp_path / name for name in ("as-it-is", "weaker", "other")]
    weaker, other = {**files, "flat": files["flat"] + ":0.2"}, {**files, "flat": files["night"]}
    for out, given in zip(outs, (files, weaker, other), strict=True):
        run_fast(manifest, out, settings(lora={name: given[name] for name in ("flat", "ink")}))
    flat, night = sha256(files["flat"])[:12], sha256(files["night"])[:12]
    line = "  differs   adapters of 1 ids: "
    assert line + f"flat at 1 (SHA-256 {flat}) -> flat at 0.2 (SHA-256 {flat})" in compared(outs[0], outs[1])
    assert line + f"flat at 1 (SHA-256 {flat}) -> flat at 1 (SHA-256 {night})" in compared(outs[0], outs[2])
    assert not [said for said in compared(outs[0], outs[0]) if "adapters" in said]


def test_a_folder_of_before_goes_on_and_says_what_it_knows(run_fast, of_before, settings, files, tmp_path):
    manifest, out, now = write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "out", tmp_path / "now"
    chosen = settings(lora={name: files[name] for name in ("flat", "ink")})
    of_before(run_fast, manifest, out, chosen)
    assert "adapters" not in table(out, "data").column_names
    before = table(out, "data").to_pylist()
    assert run_fast(manifest, out, chosen).summary.made_now == 0
    assert table(out, "data").to_pylist() == before
    run_fast(manifest, now, chosen)
    (unknown,) = [said for said in compared(out, now) if "adapters" in said]
    assert unknown.startswith(f"  unknown   adapters of 1 id of {out}: an earlier version of wanbatch made them")
    write_jsonl(manifest, [*ROWS, {"id": "more", "prompt": "a star", "style": "ink"}])
    assert run_fast(manifest, out, chosen).summary.made_now == 1
    kept = {row["id"]: row for row in table(out, "data").to_pylist()}
    assert {name: row["adapters"] and row["adapters"][0]["name"] for name, row in kept.items()} == {
        "plain": None,
        "styled": None,
        "more": "ink",
    }
    assert [{name: kept[row["id"]][name] for name in row} for row in before] == before


def test_a_row_of_before_whose_file_changed_is_made_again(
    run_fast, fast_retries, of_before, settings, files, tmp_path
):
    lost = {"id": "lost", "prompt": "a star", "image": "lost.png", "creativity": 0.8, "style": "ink"}
    manifest, out = write_jsonl(tmp_path / "m.jsonl", [*ROWS, lost]), tmp_path / "out"
    of_before(run_fast, manifest, out, settings(lora={name: files[name] for name in ("flat", "ink")}))
    other = settings(lora={"flat": files["night"], "ink": files["ink"]})
    assert run(manifest, out, other, rerun_changed=True).made_now == 1
    assert recorded(out)["plain"] is None
    assert [one["sha256"] for one in recorded(out)["styled"]] == [sha256(files[name]) for name in ("night", "ink")]
    picture(tmp_path / "lost.png", 32, 32)
    assert retry(out, ()).made_now == 1
    assert recorded(out)["lost"] == [{"name": "ink", "weight": 1.0, "sha256": sha256(files["ink"]), "merged": False}]


def test_another_file_under_the_path_of_before_is_noticed(run_fast, fast_retries, settings, files, tmp_path):
    """Of an adapter that rows name, whose path and weight are what the settings of the folder have."""
    lost = {"id": "lost", "prompt": "a star", "image": "lost.png", "creativity": 0.8, "style": "flat"}
    manifest, out = write_jsonl(tmp_path / "m.jsonl", [*ROWS, lost]), tmp_path / "out"
    chosen = settings(lora={name: files[name] for name in ("flat", "ink")})
    run_fast(manifest, out, chosen)
    made = recorded(out)
    shutil.copy(files["night"], files["flat"])
    picture(tmp_path / "lost.png", 32, 32)
    for again in (partial(run, manifest, out, chosen), partial(retry, out, ())):
        with pytest.raises(UserError, match="1 row changed since it was made, 'styled' for one"):
            again()
    assert recorded(out) == made


def test_a_second_pass_keeps_what_made_the_first(run_fast, settings, files, tmp_path):
    manifest, first, second = write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "first", tmp_path / "second"
    run_fast(manifest, first, settings(lora={name: files[name] for name in ("flat", "ink")}))
    ran = run_fast(first, second, settings(prompt="in watercolour", creativity=0.8))
    assert ran.summary.warnings == ()
    rows = {row["id"]: row for row in table(second, "data").to_pylist()}
    assert {name: row["source_adapters"] for name, row in rows.items()} == recorded(first)
    assert "adapters" not in rows["styled"]
    again = run_fast(first, tmp_path / "third", settings(lora=files, merge=["night"]))
    assert [one["name"] for one in recorded(again.out)["styled"]] == ["night"]


def test_a_column_adapters_of_the_manifest_is_kept_beside_it_as_the_message_says(run_fast, settings, files, tmp_path):
    rows = [{**row, "adapters": f"mine-{number}"} for number, row in enumerate(ROWS)]
    manifest, chosen = write_jsonl(tmp_path / "m.jsonl", rows), {"lora": files}
    with pytest.raises(UserError, match=r"rename it, or --map adapters=source_adapters$"):
        run_fast(manifest, tmp_path / "out", settings(**chosen))
    ran = run_fast(manifest, tmp_path / "out", settings(**chosen, map={"adapters": "source_adapters"}))
    made = {row["id"]: row for row in table(ran.out, "data").to_pylist()}
    assert {name: row["source_adapters"] for name, row in made.items()} == {"plain": "mine-0", "styled": "mine-1"}
    assert [one["name"] for one in made["styled"]["adapters"]] == ["flat", "ink"]


def test_the_columns_of_release_0_1_0_are_as_they_were():
    assert "adapters" not in DATA_SCHEMA.names
