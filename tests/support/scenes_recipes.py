"""Remedies for recipes of `wanbatch augment`, for their datasets and for the manifests that they write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from augment_making import fill_folder, folder_by_class, made_red, nothing_made
from remedy_scenes import At, raised, scene

from wanbatch.jobs.augment.augment import plan_augmentation
from wanbatch.jobs.augment.preview import preview
from wanbatch.jobs.config.settings import Settings

SET = 'dataset = "set"\n'
SPLIT = 'split = "train"\n'
TEXT = 'template = "a {label}"\n'
GOOD = SET + SPLIT + TEXT + "creativity = 0.3\n"
COUNTS = {"train/disc": 2, "train/box": 1, "test/disc": 1, "test/box": 1}


def recipe(at: At, text: str, *more: object) -> str:
    """What the command says of a recipe that works; the manifest is written anew."""
    at.write("recipe.toml", text)
    (at.folder / "recipe.jsonl").unlink(missing_ok=True)
    return at.works("augment", "recipe.toml", *more)


def mistakes(at: At, wrong: dict[str, list[str]]) -> Iterator[str]:
    """Recipes with a mistake, each with those that do what the message offers."""
    for text, ways in wrong.items():
        at.write("recipe.toml", text)
        yield at.refused("augment", "recipe.toml")
        for way in ways:
            recipe(at, way)


@scene
def a_recipe_given_as_a_manifest(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    at.write("recipe.toml", GOOD)
    said = at.refused("plan", "recipe.toml")
    yield said
    at.works(*re.search(r"`wanbatch (augment \S+)`", said)[1].split())


@scene
def keys_of_a_recipe(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    band = "[[checks.bands]]\ncreativity = [0.2, 0.5]\ndistance = {}\n"
    yield from mistakes(
        at,
        {
            GOOD + "fill = 3\nvariants = 2\n": [GOOD + "fill = 3\n", GOOD + "variants = 2\n"],
            GOOD + 'classes = ["box", "box"]\n': [GOOD + 'classes = ["box"]\n'],
            GOOD + 'near_copies = "keeps"\n': [
                GOOD + f'near_copies = "{way}"\n' for way in ("drop", "refuse", "keep")
            ],
            GOOD.replace(TEXT, ""): [GOOD],
            GOOD.replace(SET, ""): [GOOD],
            GOOD + "[settings]\nnum_images = 2\n": [GOOD + "variants = 2\n"],
        },
    )
    for mistake, said in (
        (GOOD.replace("0.3", "{ from = 0.6, to = 0.3 }"), r"write (\{.*\})"),
        (GOOD + band.format("[0.4, 0.1]"), r"write distance = (\[.*\])"),
    ):
        at.write("recipe.toml", mistake)
        told = at.refused("augment", "recipe.toml")
        yield told
        better = re.search(said, told)[1]  # type: ignore[index]
        recipe(at, GOOD.replace("0.3", better) if better.startswith("{") else GOOD + band.format(better))


@scene
def files_of_recipes(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    at.write("recipe.toml", GOOD.replace("a {", "grün {").encode("cp1252"))
    yield at.refused("augment", "recipe.toml")
    recipe(at, GOOD.replace("a {", "grün {"))
    yield at.refused("augment", "set")
    yield at.refused("augment", "recipes.toml")
    at.works("augment", "recipe.toml")
    told = at.refused("augment", "fine.toml")
    yield told
    at.write("fine.toml", f"{re.search(r'with (.*) in it', told)[1]}\n{SET}{SPLIT}")  # type: ignore[index]
    at.works("augment", "fine.toml")


@scene
def manifests_of_recipes(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    at.write("recipe.toml", GOOD)
    at.rows({"prompt": "x"}, name="mine.jsonl")
    (at.folder / "folder.jsonl").mkdir()
    wrong = ("made.csv", "folder.jsonl", "mine.jsonl", "a.png/made.jsonl", "s3://shop/made.jsonl")
    for name in wrong:
        yield at.refused("augment", "recipe.toml", "--out", name)
    at.works("augment", "recipe.toml", "--out", "made.jsonl")
    at.works("augment", "recipe.toml", "--out", "made.parquet")
    (at.folder / "mine.jsonl").unlink()
    at.works("augment", "recipe.toml", "--out", "mine.jsonl")
    yield at.refused("augment", "recipe.toml", "--manifest", "other.jsonl")
    told = at.works("augment", "recipe.toml", "--out", "other.jsonl")
    yield told
    command = re.search(r"next +wanbatch run (\S+)", told)
    at.works("plan", command[1])  # type: ignore[index]
    told = at.works("augment", "recipe.toml", "--out", "deeper/other.jsonl")
    yield told
    command = re.search(r"next +wanbatch run (\S+) (--source-fence) (\S+)", told)
    at.works("plan", *command.groups())  # type: ignore[union-attr]


@scene
def manifests_of_filled_folders(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    at.write("recipe.toml", GOOD + "variants = 2\n")
    at.works("augment", "recipe.toml", "--out", "out/grown.jsonl")
    fill_folder(at.folder / "out/grown", at.folder / "out/grown.jsonl")
    at.write("recipe.toml", GOOD + "variants = 1\n")
    yield at.refused("augment", "recipe.toml", "--out", "out/grown.jsonl")
    at.works("augment", "recipe.toml", "--out", "out/anew.jsonl")
    at.monkeypatch.setattr("wanbatch.jobs.augment.making.make_pictures", nothing_made)
    before = (at.folder / "out/grown.jsonl").read_bytes()
    at.works("augment", "recipe.toml", "--out", "out/grown.jsonl", "--drop-removed")
    (at.folder / "out/grown.jsonl").write_bytes(before)
    at.write("recipe.toml", GOOD + "variants = 2\n")
    run = ("augment", "recipe.toml", "--run", "--out", "out/grown", "--manifest")
    (at.folder / "set/train/disc/0.png").unlink()
    told = at.refused(*run, "other.jsonl")
    yield told
    at.works(*run, re.search(r"asked for them, (.*), with --manifest", told)[1])  # type: ignore[index]
    (at.folder / "out/grown.jsonl").rename(at.folder / "kept.jsonl")
    yield at.refused(*run, "other.jsonl")
    (at.folder / "kept.jsonl").rename(at.folder / "out/grown.jsonl")
    at.works(*run, "out/grown.jsonl")


@scene
def columns_and_classes_of_recipes(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    names = ("train/disc/0.png", "train/box/0.png")
    rows = [{"file_name": name, "label": name.split("/")[1], "seeds": 1, "own": "x"} for name in names]
    at.rows(*[{**row, "boxes": 1} for row in rows], name="table.jsonl")
    at.rows(*rows, name="set/rows.jsonl")
    table = GOOD.replace('"set"', '"set/rows.jsonl"')
    yield from mistakes(
        at,
        {
            GOOD + 'choices = { label = ["x"] }\n': [GOOD + 'choices = { kind = ["x"] }\n'],
            table + 'keep = ["label"]\n': [table + 'keep = ["own"]\n'],
            GOOD.replace("a {label}", "a {label"): [GOOD],
        },
    )
    own = table.replace("{label}", "{own}")
    at.write("recipe.toml", own)
    at.rows(rows[0], {**rows[1], "own": "x" * 33_000}, name="set/rows.jsonl")
    yield at.refused("augment", "recipe.toml")
    at.rows(*rows, name="set/rows.jsonl")
    recipe(at, own)
    (at.folder / "recipe.jsonl").unlink()
    rows[1].pop("own")
    at.rows(*rows, name="set/rows.jsonl")
    told = at.refused("augment", "recipe.toml")
    yield told
    with_default = re.search(r"or write (\{.*\})", told)[1].replace('"', "'")  # type: ignore[index]
    recipe(at, table.replace("{label}", with_default))
    (at.folder / "set/rows.jsonl").unlink()
    (at.folder / "set/train/ring").mkdir()
    at.write("recipe.toml", GOOD)
    told = at.refused("augment", "recipe.toml")
    yield told
    recipe(at, GOOD + re.search(r"like (classes = \[.*\])", told)[1] + "\n")  # type: ignore[index]
    at.picture("set/train/ring/0.png")
    recipe(at, GOOD)


@scene
def rows_to_fill(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    few = GOOD.replace("0.3", "[0.3]") + "fill = 12\nper_source = 3\n"
    told = recipe(at, few)
    yield told
    assert "that it lacks" in told
    assert "that it lacks" not in recipe(at, few.replace("per_source = 3", "per_source = 12"))
    folder_by_class(at.folder / "set", {"train/disc": 9, "train/box": 9}, first_seed=50)
    assert "that it lacks" not in recipe(at, few)
    plain = GOOD.replace("{label}", "thing").replace(SPLIT, "")
    at.rows({"image": "a.png", "kind": "x"}, {"image": "b.png", "kind": "y"}, name="table.jsonl")
    plain = plain.replace('"set"', '"table.jsonl"')
    told = [*mistakes(at, {plain + "fill = 3\n": [plain + "variants = 2\n"]})]
    yield from told
    named = re.search(r"(columns = \{.*\})", told[0])[1].replace("...", "kind")  # type: ignore[index]
    recipe(at, plain + "fill = 3\n" + named + "\n")


@scene
def pictures_that_are_held_out(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", {"train/disc": 2, "test/disc": 1}, first_seed=5)
    one = GOOD + "variants = 1\n"
    recipe(at, one)
    twin = at.folder / "set/test/disc/twin.png"
    twin.write_bytes((at.folder / "set/train/disc/0.png").read_bytes())
    yield at.refused("augment", "recipe.toml")
    at.works("augment", "recipe.toml", "--out", "anew.jsonl")
    before = (at.folder / "recipe.jsonl").read_bytes()
    assert "1 row leaves it" in at.works("augment", "recipe.toml", "--drop-removed")
    (at.folder / "recipe.jsonl").write_bytes(before)
    twin.unlink()
    (at.folder / "set/train/box").mkdir()
    (at.folder / "set/train/disc/0.png").rename(at.folder / "set/train/box/0.png")
    yield at.refused("augment", "recipe.toml")
    before = (at.folder / "recipe.jsonl").read_bytes()
    at.works("augment", "recipe.toml", "--drop-removed")
    (at.folder / "recipe.jsonl").write_bytes(before)
    (at.folder / "set/train/box/0.png").rename(at.folder / "set/train/disc/0.png")
    (at.folder / "set/train/box").rmdir()
    at.works("augment", "recipe.toml")
    kept = at.folder / "kept.png"
    (at.folder / "set/train/disc/1.png").rename(kept)
    told = at.works("augment", "recipe.toml")
    yield told
    assert "1 row stays with pictures that the dataset has no more" in told
    assert "has no more" not in at.works("augment", "recipe.toml", "--drop-removed")
    kept.rename(at.folder / "set/train/disc/1.png")
    at.works("augment", "recipe.toml")
    twin.write_bytes((at.folder / "set/train/disc/0.png").read_bytes())
    yield from mistakes(at, {one + 'near_copies = "refuse"\n': [one + 'near_copies = "drop"\n']})
    (at.folder / "set/train/disc/1.png").unlink()
    yield from mistakes(at, {one: [one + 'near_copies = "keep"\n']})
    twin.unlink()
    recipe(at, one + 'near_copies = "refuse"\n')

    folder_by_class(at.folder / "whole", {"disc": 2}, first_seed=30)
    folder_by_class(at.folder / "kept", {"disc": 1}, first_seed=40)
    plain = GOOD.replace(SPLIT, "").replace('"set"', '"whole"')
    told = recipe(at, plain)
    yield told
    better = re.search(r'(held_out = )"FOLDER"', told)[1]  # type: ignore[index]
    assert "keep test pictures apart" not in recipe(at, plain + f'{better}"kept"\n')


@scene
def groups_in_two_splits(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    names = ("train/disc/0.png", "train/disc/1.png", "test/disc/0.png")
    rows = [{"image": name, "label": "disc", "split": name.split("/")[0], "scene": "one"} for name in names]
    text = GOOD.replace('"set"', '"set/rows.jsonl"') + 'columns = { group = "scene" }\n'
    at.rows(*rows, name="set/rows.jsonl")
    at.write("recipe.toml", text)
    yield at.refused("augment", "recipe.toml")
    at.rows(*rows[:2], {**rows[2], "scene": "other"}, name="set/rows.jsonl")
    recipe(at, text)


@scene
def datasets_of_recipes(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    (at.folder / "empty").mkdir()
    yield from mistakes(
        at,
        {
            GOOD.replace('"set"', '"sets"'): [GOOD],
            GOOD.replace('"set"', '"me/sets"'): [],  # the address of the hub needs the network
            GOOD.replace('"set"', '"empty"'): [GOOD],
        },
    )
    at.picture("empty/train/disc/0.png")
    recipe(at, GOOD.replace('"set"', '"empty"'))
    at.rows({"prompt": "x", "shot": "a.png", "label": "disc"}, name="table.jsonl")
    plain = GOOD.replace(SPLIT, "").replace('"set"', '"table.jsonl"')
    at.write("recipe.toml", plain)
    told = at.refused("augment", "recipe.toml")
    yield told
    named = re.search(r"(columns = \{.*\})", told)[1].replace("...", '"shot"')  # type: ignore[index]
    recipe(at, plain + named + "\n")


@scene
def datasets_in_the_form_of_coco(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "pictures", {"": 1})
    coco = {
        "images": [{"id": 1}],
        "categories": [{"id": 5, "name": "disc"}],
        "annotations": [{"image_id": 1, "category_id": 5, "bbox": [8, 8, 16, 16]}],
    }
    text = GOOD.replace('"set"', '"coco/annotations/instances_train.json"')
    table = at.write("coco/annotations/instances_train.json", json.dumps(coco))
    at.write("recipe.toml", text)
    yield at.refused("augment", "recipe.toml")
    table.write_text(json.dumps({**coco, "images": [{"id": 1, "file_name": "0.png"}]}))
    yield at.refused("augment", "recipe.toml")
    text += 'images = "pictures"\n'
    at.write("recipe.toml", text)
    told = at.refused("augment", "recipe.toml")
    yield told
    recipe(at, text + "annotations_below = 0\n")
    recipe(at, text + "settings = { width = 64, height = 64 }\n")


@scene
def datasets_in_the_form_of_yolo(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "yolo/images/train", {"": 1})
    at.write("yolo/labels/train/0.txt", "0 0.5 0.5 0.2 0.2\n")
    at.write("recipe.toml", GOOD.replace('"set"', '"yolo"') + "annotations_below = 0\n")
    (at.folder / "yolo/images/none").mkdir()
    for folder in ("images/trains", "images/none"):
        at.write("yolo/data.yaml", f"names: [disc]\ntrain: {folder}\n")
        yield at.refused("augment", "recipe.toml")
    at.write("yolo/data.yaml", "names: [disc]\ntrain: images/train\n")
    at.works("augment", "recipe.toml")
    for mended in ("0 0.5 0.5 0.2 0.2\n", None):
        labels = at.write("yolo/labels/train/0.txt", b"\xff")
        yield at.refused("augment", "recipe.toml")
        if mended is None:
            labels.unlink()
            text = GOOD.replace('"set"', '"yolo"').replace("{label}", "disc")
            at.write("recipe.toml", text + "annotations_below = 0\n")
        else:
            labels.write_text(mended)
        at.works("augment", "recipe.toml")


@scene
def sheets_of_previews(at: At) -> Iterator[str]:
    folder_by_class(at.folder / "set", COUNTS)
    path, target = at.write("recipe.toml", GOOD), at.folder / "recipe.jsonl"
    planned = plan_augmentation(path, target, Settings())
    at.monkeypatch.setattr("wanbatch.jobs.augment.preview.make_pictures", made_red)
    yield raised(lambda: preview(planned, 2, target, at.folder / "a.png/sheet.png", Settings()))
    assert preview(planned, 2, target, at.folder / "sheet.png", Settings()) == 2
