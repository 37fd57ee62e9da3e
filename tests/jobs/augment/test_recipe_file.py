"""Recipes: what is wrong with one is said in one line, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from augment_making import RECIPE
from command_line import invoke, refused
from job_making import picture

from wanbatch.jobs.augment.recipe import shipped
from wanbatch.jobs.augment.recipe_file import read_recipe

GOOD = 'dataset = "set"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.3\n'


def write(text: str, name: str = "recipe.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "fil = 3\n", "unknown key 'fil'; known: "),
        (GOOD + "fil = 3\n", "; did you mean fill?"),
        (
            GOOD + "[blend]\nshares = 1\n",
            "unknown key 'shares' in [blend]; known: share, parents, weights, creativity",
        ),
        (GOOD + "[checks]\nblack = 400\n", "checks.black is 400: must be a number from 0 to 255"),
        (GOOD + "fill = 0\n", 'fill is 0: must be a whole number above 0, or "largest"'),
        (GOOD + 'fill = "most"\n', "fill is 'most': must be a whole number above 0, or \"largest\""),
        (GOOD + "fill = 3\nvariants = 2\n", "has both fill and variants: fill says how many rows there are"),
        (GOOD + "variants = 2.5\n", "variants is 2.5: must be a whole number from 1 to 1000"),
        (
            GOOD + 'base = "fines"\n',
            "base is 'fines': must be one of balance, few-shot, fine, objects; did you mean fine?",
        ),
        (GOOD + "[settings]\nstep = 3\n", "unknown key 'step' in [settings]; known: "),
        (GOOD + "[settings]\nsteps = 0\n", "[settings] steps is 0: must be an integer from 1 to 1000"),
        (GOOD + "[settings]\nseed = 3\n", "unknown key 'seed' in [settings]: the recipe decides it for each row"),
        (GOOD + "[hard]\nshare = 0.5\n", "has no hard.column: give it"),
        (GOOD + 'classes = ["a", "a"]\n', "classes names 'a' twice: name it once"),
        (
            GOOD.replace("0.3", "1.5"),
            "creativity is 1.5: must be a number above 0 and up to 1, a list of such numbers",
        ),
        (GOOD.replace("0.3", "[]"), "creativity is []: must be a number above 0 and up to 1"),
        (
            GOOD.replace("0.3", "{ from = 0.6, to = 0.3 }"),
            "creativity goes from 0.6 down to 0.3: write { from = 0.3, to = 0.6 }",
        ),
        (
            GOOD + "[[checks.bands]]\ncreativity = [0.2, 0.5]\ndistance = [0.4, 0.1]\n",
            "checks.bands distance goes from 0.4 down to 0.1: write distance = [0.1, 0.4]",
        ),
        (GOOD.replace('template = "a {label}"\n', ""), 'has no template: give it text like "a {label}"'),
        (GOOD.replace('dataset = "set"\n', ""), 'has no dataset: give it, like dataset = "pictures"'),
        (GOOD.replace('"set"', "set"), "is not TOML: "),
        (GOOD.replace('"set"', '"s\\u0000t"'), "dataset is 's\\x00t': must be text that is not empty and has no NUL"),
        (GOOD + "hard = 3\n", 'hard is 3: must be a table, like [hard] with column = "loss" below it'),
        (GOOD + "blend = 0.3\n", "blend is 0.3: must be a table, like [blend] with share = 0.3 below it"),
        (GOOD + 'columns = "a"\n', "columns is 'a': must be a table, like [columns] with label = \"breed\" below it"),
        (GOOD + "checks = []\n", "checks is []: must be a table, like [checks] with blur = 0.1 below it"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(text, message):
    (line,) = refused(invoke("augment", write(text)))
    assert line.startswith("recipe.toml: ")
    assert message in line


def test_a_recipe_that_is_not_there_or_no_file():
    (line,) = refused(invoke("augment", "fine.toml"))
    assert line == 'fine.toml: there is no such recipe: write a recipe with base = "fine" in it'
    Path("set").mkdir()
    (line,) = refused(invoke("augment", "set"))
    assert line == "set: is a folder: give a recipe, a TOML file that names it as dataset"


def test_a_folder_of_a_dataset_that_cannot_be_read_is_named():
    Path("set/disc").mkdir(parents=True)
    Path("set/disc/circle").symlink_to("circle")  # it leads to itself
    (line,) = refused(invoke("augment", write(GOOD)))
    assert line.startswith(
        f"{Path('set').absolute()}/disc/circle: cannot be read (Too many levels of symbolic links)"
    )
    Path("set/disc/circle").unlink()
    picture(Path("set/disc/a.png"), 16, 16)
    assert invoke("augment", write(GOOD.replace('split = "train"\n', ""))).exit_code == 0
    (line,) = refused(invoke("augment", write(GOOD.replace('"set"', f'"{"s" * 300}"'))))
    assert "cannot be read (File name too long): let it be read, or name a dataset without it" in line


def test_shipped_recipes_are_bases_whose_keys_can_be_replaced():
    assert shipped() == ["balance", "few-shot", "fine", "objects"]
    for name in shipped():
        assert read_recipe(write(f'base = "{name}"\ndataset = "set"\n')).template
    few = read_recipe(write('base = "few-shot"\ndataset = "set"\nfill = 30\ncreativity = 0.4\n'))
    assert (few.fill, few.variants, few.creativity) == (30, None, (0.4,))
    assert few.blend is not None
    assert read_recipe(write(RECIPE)).creativity == (0.3, 0.6)
