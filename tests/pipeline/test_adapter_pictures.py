"""Pictures with adapters: the same from every layout of a file, and for every row whatever is beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adapter_making import FULL_RANK_KINDS, LAYOUTS, random_pairs, save_adapter, save_full_rank
from picture_requests import PLAIN, difference, made_in_any_order, make, source

from wanbatch.pipeline.adapters.files import AdapterFile, ModelLayers, read_adapter
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime

RANKS = {"crayon": 4, "ink": 4, "neon": 20}
QUICK = replace(PLAIN, steps=3)


@pytest.fixture(scope="module")
def config(model_folder) -> dict:
    return json.loads((model_folder / "transformer" / "config.json").read_text())


@pytest.fixture(scope="module")
def layers(model_folder) -> ModelLayers:
    return ModelLayers.of_folder(model_folder, "small")


@pytest.fixture(scope="module")
def pairs(config):
    return random_pairs(config, size=0.5)


@pytest.fixture(scope="module")
def rows_of_layouts(model_folder, config, layers, pairs, tmp_path_factory) -> dict[str, np.ndarray]:
    """One picture by each layout that rows can name, and by a diffusion-pipe file with its settings beside it."""
    folder = tmp_path_factory.mktemp("layouts")
    files = {name: save_adapter(folder / f"{name}.safetensors", config, pairs, name) for name in LAYOUTS}
    files["diffusion-pipe"] = save_adapter(folder / "pipe/adapter_model.safetensors", config, pairs, "ai-toolkit")
    (folder / "pipe/adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4, "peft_type": "LORA"}))
    adapters = {name: (read_adapter(file, layers), 1.0) for name, file in files.items()}
    wan = Wan.load(registry.find(str(model_folder)), slots=3, adapters=adapters)
    return make(wan, QUICK, *(replace(QUICK, id=name, adapters=((name, 1.0),)) for name in files))


def test_rows_get_the_same_picture_from_every_layout(rows_of_layouts):
    """What alpha scales is scaled back by a power of two, so that there is nothing to round."""
    wanted = rows_of_layouts["diffusers"]
    assert difference(wanted, rows_of_layouts[QUICK.id]) > 10
    assert not [name for name, found in rows_of_layouts.items()
                if name != QUICK.id and not np.array_equal(found, wanted)]  # fmt: skip


@pytest.mark.parametrize("kind", ["diffusers", *FULL_RANK_KINDS])
def test_what_is_merged_makes_that_picture_too(kind, model_folder, config, layers, pairs, rows_of_layouts, tmp_path):
    save = save_adapter if kind in LAYOUTS else save_full_rank
    file = read_adapter(save(tmp_path / "a.safetensors", config, pairs, kind), layers)
    assert (file.only_merged is None) == (kind in LAYOUTS)
    wan = Wan.load(registry.find(str(model_folder)), slots=3, merged=[(file, 1.0)])
    assert difference(make(wan, QUICK)[QUICK.id], rows_of_layouts["diffusers"]) <= 1


@pytest.fixture(scope="module")
def files(config, layers, tmp_path_factory) -> dict[str, tuple[AdapterFile, float]]:
    folder: Path = tmp_path_factory.mktemp("adapters")
    found = {}
    for seed, (name, rank) in enumerate(RANKS.items()):
        of_name = random_pairs(config, rank, seed, size=0.5)
        file = save_adapter(folder / f"{name}.safetensors", config, of_name)
        found[name] = read_adapter(file, layers), 0.5
    return found


def styled_rows() -> list[Request]:
    """Rows of one style, of another, of both, of a larger rank and of none, and of all that rows may have beside."""
    crayon, ink, neon = (("crayon", 1.0),), (("ink", 2.0),), (("neon", 1.0),)
    return [
        QUICK,
        replace(QUICK, id="b", adapters=crayon),
        replace(QUICK, id="c", adapters=ink, steps=5),
        replace(QUICK, id="d", adapters=crayon + ink, sampler="euler", guidance=2.5, seed=9),
        replace(QUICK, id="e", adapters=neon, steps=4, sources=(source(1),), creativity=0.6, seed=10),
        replace(QUICK, id="f", adapters=ink, sources=(source(1, 1.0), source(2, 2.0)), creativity=0.3, steps=8),
        replace(QUICK, id="g", adapters=crayon, guidance=1.0, seed=14),
        replace(QUICK, id="h", adapters=ink, width=96, seed=15),
        replace(QUICK, id="i", sampler="dpmpp_2m", steps=4, seed=11),
    ]


@pytest.mark.parametrize("merged_rows", [False, True], ids=["added", "merged"])
def test_pixels_with_adapters_do_not_depend_on_neighbours_order_or_slot(merged_rows, model_folder, files, wan):
    own = Wan.load(
        registry.find(str(model_folder)), slots=3, adapters=files, runtime=Runtime(merged_rows=merged_rows)
    )
    rows = styled_rows()
    together = made_in_any_order(own, rows, orders=1)
    assert len({pixels.tobytes() for pixels in together.values()}) == len(rows)
    without = [row for row in rows if not row.adapters]
    assert all(np.array_equal(found, together[name]) for name, found in make(wan, *without).items())
