"""The finished folder as other libraries and readers of its card see it."""

import pyarrow as pa
import pytest
from huggingface_hub import DatasetCard
from manifest_making import encoded
from output_folders import publish

from wanbatch.manifests.dataset.card import CardContent, write_card
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import status

SETTINGS = {"model": "tiny", "guidance": 3.0, "vae": {"dtype": "fp32"}, "columns": ["a"]}


class TestOtherLibraries:
    @pytest.fixture
    def finished(self, out, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        with OutputFolder.open(out, SETTINGS) as folder:
            folder.set_plan({"rows": 6})
            for unit, names in enumerate((["a", "b"], ["c", "d", "e"])):
                extra = pa.table({"label": [unit] * len(names), "tags": [["x", None]] * len(names)})
                publish(folder, unit, names, ["f"] if unit else [], passthrough=extra)
            schema = pa.schema([("label", pa.int64())])
            shown = {"guidance": 3.0, "odd | `name`": "<b>"}
            content = CardContent("some/model", "abc|123", shown, schema, ["keywords"], ("A note | on them",))
            write_card(out, content, status(out))
        (out / "report.html").write_text("<html></html>")
        return out

    def test_datasets(self, finished, tmp_path):
        import datasets

        loaded = datasets.load_dataset(str(finished), cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == ["train"]
        train = loaded["train"]
        assert isinstance(train.features["image"], datasets.Image)
        assert train["id"][:] == ["a", "b", "c", "d", "e"]
        assert train[0]["image"].size == (32, 32)
        assert train[0]["image"].getpixel((0, 0)) == (200, 30, 30)
        assert (train[4]["label"], train[4]["tags"], train[4]["creativity"]) == (1, ["x", None], 0.5)
        assert train[0]["sources"][1]["path"] == "b.png"

    def test_pandas(self, finished):
        import pandas as pd

        data, timings = pd.read_parquet(finished / "data"), pd.read_parquet(finished / "timings")
        joined = data.merge(timings, on="id", validate="one_to_one")
        assert len(joined) == 5
        assert joined["started"].dt.tz is not None
        assert joined["image"][0]["bytes"] == encoded()

    def test_polars(self, finished):
        import polars as pl

        frame = pl.read_parquet(finished / "data" / "*.parquet")
        assert frame["label"].to_list() == [0, 0, 1, 1, 1]
        assert frame["image"].struct.field("path").to_list()[0] == "a.png"
        assert pl.read_parquet(finished / "timings")["denoise_seconds"].sum() == 2.5

    def test_duckdb(self, finished):
        import duckdb

        rows = duckdb.sql(
            f"select d.id, d.label, t.backends.denoise from '{finished}/data/*.parquet' d "
            f"join '{finished}/timings/*.parquet' t using (id) order by id desc"
        ).fetchall()
        assert rows[0] == ("e", 1, "eager")
        assert duckdb.sql(f"select id, error_class from '{finished}/failures/*.parquet'").fetchall() == [
            ("f", "bad_image")
        ]

    def test_the_card(self, finished):
        text = (finished / "README.md").read_text()
        assert text.startswith("---\npretty_name: ")
        assert "5 images, made from a manifest by wanbatch with `some/model` at revision `abc\\|123`." in text
        assert "1 row could not be made (1 bad_image)." in text
        assert "\nA note \\| on them.\n" in text
        assert "| `keywords` |" in text
        assert "| `evaluations` |" not in text, "the parts have none"
        assert "| `label` | from the manifest (`int64`) |" in text
        assert "| `odd \\| 'name'` | `<b>` |" in text, "Markdown resolves no entities in code"


@pytest.mark.parametrize(
    "name", ["2024", "a: b # c", "x\n---\ny: 1", '"quoted" | <b>', "caf\u00e9 \U0001f600", "- a\t"]
)
def test_front_matter_is_yaml_whatever_the_folder_is_called(tmp_path, name):
    counts = {"done": 1, "quarantined": 0, "failures": {}}
    (tmp_path / name).mkdir()
    write_card(tmp_path / name, CardContent("tiny", None, {}), counts)
    card = DatasetCard.load(tmp_path / name / "README.md")
    assert card.data.pretty_name == name
    assert card.data.get("configs")[0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert "# " in card.text
