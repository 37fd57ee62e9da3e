"""Columns that seem to mean others, columns that are read as others, and columns of a manifest's own."""

from __future__ import annotations

import pyarrow as pa
import pytest
from manifest_making import encoded

from wanbatch.manifests.columns import GIVEN, LATER, WRITTEN
from wanbatch.manifests.reading.column_map import map_problem, nearest_name
from wanbatch.manifests.reading.column_names import meant_column, suspects
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.sources.loader import SourceLoader

PLAIN = """
    label labels score split text_length source_id source_image source_prompt weight weights name title description
    url tags category class sample samples seen speed feed shirt size key hash license date index row page color
    colour lang language domain prompt_id image_id seed_id prompt_length caption_length prompt_2 image_2 seed2
    prompt_a aesthetic width_cm area stile styles styled need weed page_id image_width image_height hue ids kid sid
    texts context subtitle audios radio video stops stems steep sets drift shaft gift image_hash subject position
    timestep step_count data train_id solve resolver größe 标签 scheduled source
"""
MISSPELT = {
    **{
        "Seed": "seed",
        "ID": "id",
        "Prompt": "prompt",
        "negative prompt": "negative_prompt",
        "num-images": "num_images",
    },
    **{"negativePrompt": "negative_prompt", " image": "image", "\ufeffprompt": "prompt", "NUM_IMAGES": "num_images"},
    **{
        "creativty": "creativity",
        "num_image": "num_images",
        "promt": "prompt",
        "pormpt": "prompt",
        "heigth": "height",
    },
    **{"guidence": "guidance", "keyword": "keywords", "blend_weigths": "blend_weights", "guidance2": "guidance_2"},
}
OTHER_TOOLS = {
    **{"num_inference_steps": "steps", "guidance_scale": "guidance", "strength": "creativity", "flow_shift": "shift"},
    **{
        "generator_seed": "seed",
        "num_images_per_prompt": "num_images",
        "guidance_scale_2": "guidance_2",
    },  # diffusers
    **{
        "cfg_scale": "guidance",
        "denoising_strength": "creativity",
        "sampler_name": "sampler",
        "n_iter": "num_images",
    },
    **{"batch_size": "num_images", "init_images": "images", "CFG scale": "guidance"},  # AUTOMATIC1111
    **{
        "cfg": "guidance",
        "denoise": "creativity",
        "noise_seed": "seed",
        "scheduler": "schedule",
        "cfgScale": "guidance",
    },
    **{"positive": "prompt", "negative": "negative_prompt"},  # ComfyUI
    **{"caption": "prompt", "text": "prompt", "TEXT": "prompt", "file_name": "image", "edit_prompt": "prompt"},
    **{"input_image": "image", "image_path": "image"},  # kohya, imagefolder, instruct-pix2pix
}


@pytest.mark.parametrize(("name", "meant"), [*MISSPELT.items(), *OTHER_TOOLS.items()])
def test_what_a_name_seems_to_mean(name, meant):
    assert meant_column(name) == meant


@pytest.mark.parametrize("name", [*PLAIN.split(), *GIVEN, *WRITTEN])
def test_plain_columns_and_those_that_are_known_mean_no_other(name):
    assert meant_column(name) is None


def test_no_name_of_another_tool_is_a_column_of_ours_or_stands_for_two():
    aliases = [alias for given in GIVEN.values() for alias in given.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not {*aliases} & {*GIVEN, *WRITTEN}


def said(path, **options) -> dict[str, str]:
    return {column.column: column.message for column in read_manifest(path, **options).unused_columns}


def test_each_unused_column_is_told_of_once_with_the_flag_that_takes_it(jsonl):
    row = {"prompt": "a", "image": "a.png", "strength": 0.1, "Seed": 5, "negative prompt": "b", "label": 3}
    found = said(jsonl(row, row, {**row, "num_image": 2}))
    assert found == {
        "strength": "column 'strength' is not used; did you mean creativity? Take it with --map strength=creativity "
        "(creativity is a noise level, not a share of the steps: at shift 5 a strength of 0.6 is 0.88)",
        "Seed": "column 'Seed' is not used; did you mean seed? Take it with --map Seed=seed",
        "negative prompt": "column 'negative prompt' is not used; did you mean negative_prompt? Take it with "
        "--map 'negative prompt=negative_prompt'",
        "num_image": "column 'num_image' is not used; did you mean num_images? Take it with "
        "--map num_image=num_images",
    }


def test_nothing_is_said_where_the_proper_column_is_in_every_row_or_no_value_is_lost(jsonl):
    rows = {"prompt": "a", "caption": "b", "text": "c"}, {"prompt": "b", "caption": None, "strength": None}
    assert said(jsonl(*rows)) == {}
    assert said(jsonl({"image": "a.png"}, {"image": "b.png", "prompt": "x", "caption": "y"})) == {}


def test_where_some_rows_have_the_proper_column_the_values_are_to_be_put_there(jsonl):
    found = said(jsonl({"prompt": "a"}, {"image": "a.png", "caption": "b"}))
    assert found == {
        "caption": "column 'caption' is not used; did you mean prompt? (1 row has no prompt, and others have: put "
        "the values of 'caption' there)"
    }


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("batch_size", [1, 2], True),
        ("cfg_scale", ["7", "7.5"], True),
        ("cfg_scale", ["high", "low"], False),
        ("strength", [True, False], False),
        ("strength", [{"a": 1}, {"a": 2}], False),
        ("text", [1, 2], False),
        ("text", [["a"], ["b"]], True),
        ("strength", [[1.0], [2.0]], False),
        ("Seed", [-1, -1], True),
        ("Seed", ["x", "y"], True),
        ("seeds", ["x", "y"], False),
    ],
)
def test_values_that_could_not_be_meant_so_are_passed_through_in_silence(jsonl, name, values, told):
    rows = [{"image": "a.png", name: value} for value in values]
    assert set(said(jsonl(*rows))) == ({name} if told else set())


def test_strict_makes_all_of_them_errors_with_the_way_to_keep_a_column(jsonl, problems):
    found = problems(jsonl({"prompt": "a", "caption": "b", "cfg": 3, "Seed": 1}), strict=True)
    assert [problem.split(" is not used")[0] for problem in found] == [
        "shop.jsonl: column 'cfg'",
        "shop.jsonl: column 'Seed'",
    ]
    assert found[0].endswith("; or keep it as a column of your own with --map cfg=source_cfg")
    kept = {"cfg": "source_cfg", "Seed": "seed"}
    manifest = read_manifest(jsonl({"prompt": "a", "cfg": 3, "Seed": 1}), strict=True, renames=kept)
    assert (manifest.row(0).seed, manifest.passthrough.to_pydict()) == (1, {"source_cfg": [3]})


def test_strict_with_other_problems_tells_all_at_once(jsonl, problems):
    found = problems(jsonl({"prompt": "a", "steps": 0, "cfg": 3}), strict=True)
    assert [problem.split(" is ")[0] for problem in found] == ["shop.jsonl: column 'cfg'", "shop.jsonl:1: steps"]


def test_rows_that_ask_for_nothing_but_have_a_caption_are_told_of_it(jsonl, problems):
    found = problems(jsonl({"file_name": "a.png", "text": "x", "cfg": 2}, {"text": "y"}))
    assert found == [
        "shop.jsonl: column 'file_name' is not used; did you mean image? Take it with --map file_name=image",
        "shop.jsonl: column 'text' is not used; did you mean prompt? Take it with --map text=prompt",
        "shop.jsonl:1: asks for nothing: give a prompt, image, images, audio or blend_group",
        "shop.jsonl:2: asks for nothing: give a prompt, image, images, audio or blend_group",
    ]


def test_the_cause_is_told_also_where_there_are_too_many_problems_to_read_on(jsonl, parquet, problems):
    for path in (jsonl(*[{"text": "x"}] * 10_001), parquet({"text": ["x"] * 10_001})):
        found = problems(path)
        assert found[0].endswith("column 'text' is not used; did you mean prompt? Take it with --map text=prompt")
        assert len(found) == 10_002


def test_a_column_is_read_as_another_one_with_all_its_rules(jsonl, parquet, problems):
    renames = {"text": "prompt", "cfg scale": "guidance", "prompt": "source_prompt"}
    row = {"text": "a heart", "cfg scale": 2, "prompt": "old", "label": 1}
    for path in (jsonl(row), parquet({name: [value] for name, value in row.items()})):
        manifest = read_manifest(path, renames=renames)
        assert (manifest.row(0).prompt, manifest.row(0).guidance) == ("a heart", 2.0)
        assert manifest.passthrough.to_pydict() == {"source_prompt": ["old"], "label": [1]}
        assert manifest.unused_columns == ()
    assert problems(jsonl({**row, "cfg scale": -1}), renames=renames) == [
        "shop.jsonl:1: guidance is -1: must be a finite number, 0 or more; the nearest is 0"
    ]


@pytest.mark.parametrize(
    ("renames", "said"),
    [
        ({"captoin": "prompt"}, "has no column 'captoin', which --map captoin=prompt names: did you mean 'caption'?"),
        ({"zzz": "steps"}, "has no column 'zzz', which --map zzz=steps names: there are 'caption', 'image', 'seed'"),
        (
            {"caption": "seed"},
            "column 'seed' is there, and --map caption=seed would read 'caption' as seed too: keep one of them, or "
            "rename the other with --map seed=source_seed",
        ),
    ],
)
def test_a_map_that_does_not_fit_the_manifest(jsonl, parquet, problems, renames, said):
    row = {"caption": "7", "image": "a.png", "seed": 7}
    for path in (jsonl(row, row), parquet({name: [value] for name, value in row.items()})):
        found = problems(path, renames=renames)
        assert f"{path.name}: {said}" in found


def test_both_names_can_be_exchanged(jsonl):
    manifest = read_manifest(jsonl({"a": "x", "prompt": "y"}), renames={"a": "prompt", "prompt": "source_a"})
    assert (manifest.row(0).prompt, manifest.passthrough.to_pydict()) == ("x", {"source_a": ["y"]})


@pytest.mark.parametrize("kind", ["struct", "list"])
def test_embedded_images_of_a_column_that_is_read_as_image_are_found(parquet, tmp_path, kind):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [{"bytes": encoded(width, 8), "path": None} for width in (3, 5)]
    values = pa.array([[p] for p in pictures], pa.list_(image)) if kind == "list" else pa.array(pictures, image)
    path = parquet({"input_image": values, "edit_prompt": ["a", "b"], "edited_image": values})
    manifest = read_manifest(path, renames={"input_image": "image", "edit_prompt": "prompt"})
    with SourceLoader(manifest.source_root) as loader:
        assert [loader.size(row.sources[0]) for row in manifest.iter_rows()] == [(3, 8), (5, 8)]
    assert manifest.passthrough.column_names == ["edited_image"]


def test_features_of_a_renamed_column_keep_their_classes(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "style": datasets.ClassLabel(names=["a", "b"])})
    path = tmp_path / "shop.parquet"
    datasets.Dataset.from_dict({"text": ["x"], "style": [1]}, features=features).to_parquet(str(path))
    passed = read_manifest(path, renames={"text": "prompt", "style": "source_style"}).passthrough
    assert datasets.Features.from_arrow_schema(passed.schema)["source_style"] == features["style"]


@pytest.mark.parametrize("name", [*sorted(set(WRITTEN) - set(GIVEN))])
def test_a_column_of_the_output_is_kept_under_the_name_that_the_message_gives(jsonl, problems, name):
    path = jsonl({"prompt": "a", name: 1})
    assert problems(path) == [
        f"shop.jsonl:1: column {name!r} is also one that wanbatch writes: rename it, or --map {name}=source_{name}"
    ]
    renames = {name: f"source_{name}"}
    if name == "sources":
        assert map_problem(renames) is None
    assert read_manifest(path, renames=renames).passthrough.to_pydict() == {f"source_{name}": [1]}


@pytest.mark.parametrize("name", [name for name in LATER if name in GIVEN])
def test_a_column_that_came_later_can_be_the_manifests_own(jsonl, parquet, problems, name):
    path, remedy = (
        jsonl({"prompt": "a", name: -1}),
        f"; or, if it is a column of your own, --map {name}=source_{name}",
    )
    assert problems(path)[0].endswith(remedy)
    assert problems(parquet({"prompt": ["a"], name: [True]}))[0].endswith(remedy)
    assert read_manifest(path, renames={name: f"source_{name}"}).passthrough.to_pydict() == {f"source_{name}": [-1]}


def test_a_prompt_of_the_run_is_enough_for_rows_that_give_none(jsonl, problems):
    path = jsonl({"seed": 1}, {}, {"id": "a", "prompt": "b"})
    assert len(problems(path)) == 2
    assert [row.prompt for row in read_manifest(path, prompt_of_run=True).iter_rows()] == [None, None, "b"]


def test_a_row_without_a_number_of_its_own_gives_no_id(jsonl):
    assert set(said(jsonl({"prompt": "a", "ID": "x"}, {"prompt": "b", "ID": "y"}))) == {"ID"}
    assert said(jsonl({"prompt": "a", "ID": "x", "id": "a"})) == {}


def test_of_two_columns_for_one_the_first_is_offered(jsonl, problems):
    row = {"image": "a.png", "batch_size": 2, "n_iter": 3}
    first, second = read_manifest(jsonl(row)).unused_columns
    assert (first.can_be_mapped, second.can_be_mapped) == (True, False)
    assert second.message == (
        "column 'n_iter' is not used; did you mean num_images? (or 'batch_size' is what is meant: take one of them)"
    )
    assert len(problems(jsonl(row), strict=True)) == 2
    taken = read_manifest(jsonl(row), strict=True, renames={"n_iter": "num_images", "batch_size": "source_batch"})
    assert taken.row(0).num_images == 3


def test_several_captions_a_row_cannot_be_a_prompt(jsonl):
    [column] = read_manifest(jsonl({"image": "a.png", "caption": ["a", "b"]})).unused_columns
    assert column.message == (
        "column 'caption' is not used; did you mean prompt? (its values are lists: give one prompt a row, with a row "
        "for each)"
    )


def test_nearest_names():
    assert nearest_name("captoin", ["caption", "label"]) == "caption"
    assert nearest_name("cfg scale", ["guidance", "seed"]) == "guidance"
    assert nearest_name("xyz", ["caption", "label"]) is None
    assert [column.column for column in suspects({"caption", "cfg", "guidance"})] == ["caption"]
