"""CLAP and AST with random weights, in the layout of transformers: they load, score windows alone, say why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sound_making import save_ast, save_clap

from wanbatch.errors import UserError
from wanbatch.pipeline.sound.config import find_tagger
from wanbatch.pipeline.sound.taggers import load_tagger

SOUND = np.random.default_rng(0).normal(size=(3, 80_000)).astype(np.float32) / 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("taggers")
    return {"clap": save_clap(root / "clap"), "ast": save_ast(root / "ast")}


@pytest.mark.parametrize("name", ["clap", "ast"])
def test_scores_of_a_window_do_not_depend_on_the_others(folders, name):
    config = find_tagger(str(folders[name]))
    tagger = load_tagger(config)
    scores = tagger.scores(SOUND)
    assert scores.shape == (3, len(tagger.labels))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.array_equal(tagger.scores(SOUND[1:2])[0], scores[1])
    if name == "clap":
        assert "bird singing" in tagger.labels
        assert np.allclose(scores.sum(axis=1), 1, atol=1e-4)
    else:
        assert tagger.labels == ["Bird", "Dog", "Speech"]


def test_the_digest_follows_weights_and_settings(folders, tmp_path):
    same = find_tagger(str(folders["ast"]))
    assert find_tagger(str(folders["ast"])).digest == same.digest
    (tmp_path / "p.toml").write_text('"Bird" = "a phoenix"')
    others = [
        find_tagger(str(folders["clap"])),
        find_tagger(str(folders["ast"]), threshold=0.4),
        find_tagger(str(folders["ast"]), tmp_path / "p.toml"),
    ]
    assert len({same.digest, *(other.digest for other in others)}) == 4
    assert dict(others[-1].phrases)["Bird"] == "a phoenix"


def test_what_is_no_tagger_is_refused_before_anything_is_loaded(tmp_path):
    def refused(message: str, model: str = str(tmp_path)) -> None:
        with pytest.raises(UserError, match=message):
            find_tagger(model)

    refused("no folder ./nowhere: give a folder or a hub id", "./nowhere")
    refused(r"pip install 'wanbatch\[birdnet\]'", "birdnet")
    refused("config.json: cannot be read")
    (tmp_path / "config.json").write_text("{")
    refused("is damaged")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused("is of type 'bert': give a model of type clap")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap"}))
    refused("has no .safetensors file")
