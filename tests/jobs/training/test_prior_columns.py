"""`--map` of `wanbatch train lora` reads columns of the pictures and of the prior as others, each where it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.training import lora


class Begun(Exception):
    """Everything was checked."""


@pytest.fixture
def found(tmp_path, monkeypatch) -> list[lora.Checked]:
    """What trainings that were let begin had; the current folder is a new one with a picture."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save("one.png")
    seen: list[lora.Checked] = []

    def begin(*given, **more):
        raise Begun

    checked = lora.checked

    def checked_and_kept(request, say):
        seen.append(checked(request, say))
        return seen[-1]

    monkeypatch.setattr(lora, "checked", checked_and_kept)
    monkeypatch.setattr(lora.TrainingModel, "load", begin)
    return seen


def parquet(name: str, **columns: list) -> None:
    """A Parquet file with the picture in each of its rows."""
    image = {"bytes": Path("one.png").read_bytes(), "path": "one.png"}
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": [image] * rows, **columns}), name)


def train(images: str, prior: str, *renames: str) -> Result:
    words = ["--images", images, "--prior", prior, "--name", "ink", "--device", "cpu"]
    return CliRunner().invoke(main, ["train", "lora", *words, *(part for one in renames for part in ("--map", one))])


def captions(found: list[lora.Checked]) -> tuple[list[str], list[str]]:
    """Those of the pictures and of the prior ones, of the training that began last."""
    assert found[-1].prior is not None
    return [each.caption for each in found[-1].pictures.found], [each.caption for each in found[-1].prior.found]


def test_each_column_is_read_as_another_where_it_is(found):
    parquet("mine.parquet", words=["a cat"], sha256=["x"])
    parquet("others.parquet", said=["a dog"], title=["no caption"])
    parquet("both.parquet", words=["a bird"])
    assert isinstance(train("mine.parquet", "both.parquet", "words=prompt", "sha256=source_sha256").exception, Begun)
    assert captions(found) == (["a cat"], ["a bird"])
    done = train("mine.parquet", "others.parquet", "words=prompt", "sha256=source_sha256", "title=source_title")
    assert (done.exit_code, "others.parquet: none of its 1 picture has a caption" in done.output) == (2, True)
    assert "--caption" not in done.output, "which gives none to a prior"
    assert "--map COLUMN=prompt" in done.output
    done = train("mine.parquet", "others.parquet", "sha256=source_sha256", "said=prompt")
    assert (done.exit_code, "mine.parquet: none of its 1 picture has a caption" in done.output) == (2, True)
    parquet("captioned.parquet", caption=["a dog"], variant=[1])
    done = train(
        "mine.parquet", "captioned.parquet", "words=prompt", "sha256=source_sha256", "variant=source_variant"
    )
    assert isinstance(done.exception, Begun), done.output
    assert captions(found) == (["a cat"], ["a dog"])


def test_what_the_message_about_a_prior_says_works(found):
    parquet("mine.parquet", prompt=["a cat"])
    parquet("others.parquet", prompt=["a dog"], variant=[1], sha256=["x"])
    refused = train("mine.parquet", "others.parquet")
    flags = re.findall(r"--map (\S+=source_\S+)$", refused.stderr, re.MULTILINE)
    assert (refused.exit_code, sorted(flags)) == (2, ["sha256=source_sha256", "variant=source_variant"])
    assert isinstance(train("mine.parquet", "others.parquet", *flags).exception, Begun)
    assert captions(found) == (["a cat"], ["a dog"])


def test_a_column_that_the_prior_has_as_well_as_what_it_would_be_read_as(found):
    parquet("mine.parquet", words=["a cat"])
    parquet("others.parquet", prompt=["a dog"], words=["a hound"])
    refused = train("mine.parquet", "others.parquet", "words=prompt")
    assert (refused.exit_code, "column 'prompt' is there" in refused.stderr) == (2, True), refused.output
    [flag] = re.findall(r"rename the other with --map (\S+)$", refused.stderr, re.MULTILINE)
    assert isinstance(train("mine.parquet", "others.parquet", "words=prompt", flag).exception, Begun)
    assert captions(found) == (["a cat"], ["a hound"])


def test_a_column_that_neither_has_is_refused_with_what_is_there(found):
    parquet("mine.parquet", words=["a cat"])
    parquet("others.parquet", prompt=["a dog"])
    refused = train("mine.parquet", "others.parquet", "wrds=prompt")
    assert refused.exit_code == 2
    told = "has no column 'wrds', which --map wrds=prompt names:"
    assert f"mine.parquet: {told} did you mean 'words'?; others.parquet: {told} there are" in refused.stderr
    assert isinstance(train("mine.parquet", "others.parquet", "words=prompt").exception, Begun)


def test_pictures_that_a_file_names_stay_when_others_are_in_a_mapped_column(found):
    """`image` is what `file_name` of an imagefolder is read as, unless a column of this folder is to be."""
    Path("others").mkdir()
    Path("others/one.png").write_bytes(Path("one.png").read_bytes())
    Path("others/metadata.jsonl").write_text(json.dumps({"file_name": "one.png", "prompt": "a dog"}) + "\n")
    Path("mine.jsonl").write_text(json.dumps({"drawing": "one.png", "prompt": "a cat"}) + "\n")
    assert isinstance(train("mine.jsonl", "others", "drawing=image").exception, Begun)
    assert captions(found) == (["a cat"], ["a dog"])


def test_without_a_prior_every_column_must_be_there(found):
    parquet("mine.parquet", prompt=["a cat"])
    words = ["train", "lora", "--images", "mine.parquet", "--name", "ink", "--map", "words=source_words"]
    refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, "has no column 'words'" in refused.stderr) == (2, True), refused.output
