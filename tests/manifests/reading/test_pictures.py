"""Folders of pictures as manifests, with captions beside them or with a table of `datasets`."""

from __future__ import annotations

import json
import os

import pytest
from manifest_making import encoded

from wanbatch.errors import ManifestError, UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.reading.pictures import picture_ids
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES
from wanbatch.manifests.sources.loader import SourceLoader


@pytest.fixture
def photos(tmp_path):
    """Writes files into a folder: text as UTF-8, and a picture where there is none."""

    def write(**files: str | bytes | None):
        for name, content in files.items():
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = encoded(kind="JPEG" if name.endswith("jpg") else "PNG") if content is None else content
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path / "photos"

    return write


def rows(path, **options) -> dict[str, tuple]:
    """Id -> path of the source and prompt."""
    return {row.id: (row.sources[0].path, row.prompt) for row in read_manifest(path, **options).iter_rows()}


def test_each_picture_is_a_row_in_the_order_of_their_paths(photos):
    pictures = dict.fromkeys(("b.png", "a.jpg", "cats/one.webp", "cats/old/two.JPEG", "A.PNG"))
    folder = photos(**pictures, **{"a.txt": "\ufeff a blue star\n", "cats/one.TXT": "one\ntwo", "b.txt": " \n"})
    assert rows(folder) == {
        **{"A": ("A.PNG", None), "a": ("a.jpg", "a blue star"), "b": ("b.png", None)},
        **{"cats-old-two": ("cats/old/two.JPEG", None), "cats-one": ("cats/one.webp", "one\ntwo")},
    }
    manifest = read_manifest(folder)
    assert list(rows(folder)) == ["A", "a", "b", "cats-old-two", "cats-one"]
    assert manifest.passthrough.to_pydict() == {"file_name": [row.sources[0].path for row in manifest.iter_rows()]}
    assert (manifest.row(1).location, manifest.unused_columns, manifest.warnings) == (f"{folder}/a.jpg", (), ())
    with SourceLoader(manifest.source_root) as loader:
        assert {loader.size(row.sources[0]) for row in manifest.iter_rows()} == {(32, 32)}


def test_hidden_files_and_output_folders_are_left_out_and_others_are_counted(photos):
    kept = {"a.png": None, "out/notes.csv/a.png": None}
    folder = photos(
        **kept,
        **{".thumbs/a.png": None, "_old/a.png": None, ".a.png": None, "out/first/data/a.png": None},
        **{"out/first/_wanbatch/run.json": "{}", "x.psd": "x", "y.psd": "y", "README": "z", "lost.txt": "no picture"},
    )
    manifest = read_manifest(folder)
    assert manifest.passthrough["file_name"].to_pylist() == list(kept)
    assert manifest.warnings == (
        f"{folder}: 4 files are not read, neither pictures ({', '.join(PICTURE_SUFFIXES)}) nor captions of these: "
        "2 .psd, 1 without ending, 1 .txt",
    )


def test_ids_are_safe_and_unlike_and_stay_when_pictures_come(tmp_path):
    names = ["a.png", "größe 1.png", "größe_1.png", "a b.png", "x" * 200 + ".png", "x" * 201 + ".png", "标签.png"]
    ids = picture_ids(names)
    assert len(set(ids.values())) == len(names)
    assert all(name.isascii() and len(name) <= 128 and " " not in name for name in ids.values())
    assert ids["a.png"] == "a"
    grown = picture_ids(["0.png", *names, "zz/a.png"])
    assert {name: grown[name] for name in names} == ids
    same = picture_ids(["cat.png", "cat.jpg", "a-b.png", "a/b.png"])
    assert len(set(same.values())) == 4
    assert all(one.rpartition("-")[0] in ("cat", "a-b") for one in same.values())


def test_a_caption_that_is_no_text_is_named(photos, problems):
    folder = photos(**{"a.png": None, "a.txt": b"\xff\xfe", "b.png": None, "b.txt": "a\0b"})
    found = [text.replace(f"{folder}/", "") for text in problems(folder)]
    assert [text.replace("photos/", "") for text in found] == [
        "a.png: its caption a.txt is not UTF-8 text: save it as UTF-8",
        "b.png: prompt is 'a\\x00b': must be Unicode text of at most 32768 characters, without NUL",
    ]


def test_a_caption_that_cannot_be_read_is_no_absent_caption(photos):
    folder = photos(**{"a.png": None})
    os.symlink(folder / "nowhere", folder / "a.txt")
    with pytest.raises(UserError, match=r"photos/a\.txt: cannot be read \(No such file"):
        read_manifest(folder)


def test_a_caption_that_is_a_pipe_is_not_waited_for(photos):
    folder = photos(**{"a.png": None})
    os.mkfifo(folder / "a.txt")
    with pytest.raises(UserError, match=r"photos/a\.txt: cannot be read \(it is not a regular file"):
        read_manifest(folder)


def test_a_caption_that_is_a_link_out_of_the_folder_is_not_read_into_the_dataset(photos, problems, tmp_path):
    (tmp_path / "secret").write_text("a secret")
    folder = photos(**{"a.png": None})
    os.symlink(tmp_path / "secret", folder / "a.txt")
    [found] = problems(folder)
    assert "photos/a.png: its caption a.txt is a link out of the folder: set --source-fence" in found
    assert "secret" not in found
    assert rows(folder, source_fence=tmp_path) == {"a": ("a.png", "a secret")}


def test_columns_of_a_folder_of_pictures_can_be_read_as_others(photos):
    folder = photos(**{"a.png": None, "b.png": None, "b.txt": "two"})
    manifest = read_manifest(folder, renames={"prompt": "negative_prompt", "file_name": "source_file"})
    assert [(row.prompt, row.negative_prompt) for row in manifest.iter_rows()] == [(None, None), (None, "two")]
    assert manifest.passthrough.to_pydict() == {"source_file": ["a.png", "b.png"]}
    named = read_manifest(photos(**{"b.txt": ""}), renames={"file_name": "prompt"})
    assert [row.prompt for row in named.iter_rows()] == ["a.png", "b.png"]


def test_a_folder_without_pictures_says_what_would_do(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match=r"is a folder without a manifest: give .*a folder of pictures \(\.png, "):
        read_manifest(tmp_path)


def test_the_digest_follows_names_and_captions(photos):
    first = read_manifest(photos(**{"a.png": None, "a.txt": "x"})).digest
    assert read_manifest(photos(**{"a.txt": "y"})).digest != first
    assert read_manifest(photos(**{"a.txt": "x"})).digest == first
    assert read_manifest(photos(**{"b.png": None})).digest != first


LINES = [{"file_name": "1.png", "text": "a star", "score": 0.5}, {"file_name": "2.png", "text": "a heart"}]
TABLES = {
    "metadata.jsonl": "".join(json.dumps(line) + "\n" for line in LINES),
    "metadata.csv": "file_name,text,score\n1.png,a star,0.5\n2.png,a heart,\n",
}


class TestImageFolder:
    @pytest.mark.parametrize("table", TABLES)
    def test_pictures_are_found_beside_their_table(self, photos, table):
        pictures = dict.fromkeys(("train/1.png", "train/2.png", "test/1.png", "test/2.png"))
        folder = photos(**pictures, **{f"{split}/{table}": TABLES[table] for split in ("train", "test")})
        manifest = read_manifest(folder, renames={"text": "prompt"})
        assert [(row.sources[0].path, row.prompt) for row in manifest.iter_rows()] == [
            *(("test/1.png", "a star"), ("test/2.png", "a heart"), ("train/1.png", "a star")),
            ("train/2.png", "a heart"),
        ]
        splits = ["test", "test", "train", "train"]
        assert manifest.passthrough.to_pydict() == {"score": [0.5, None, 0.5, None], "split": splits}
        (warning,) = manifest.warnings
        assert "has the splits test (1 file) and train (1 file)" in warning
        with SourceLoader(manifest.source_root) as loader:
            assert {loader.size(row.sources[0]) for row in manifest.iter_rows()} == {(32, 32)}

    @pytest.mark.parametrize("table", TABLES)
    def test_the_text_is_told_to_be_unused_and_pictures_of_no_row_too(self, photos, table):
        folder = photos(**{"1.png": None, "2.png": None, "3.png": None, table: TABLES[table]})
        manifest = read_manifest(folder)
        assert [column.option for column in manifest.unused_columns] == ["--map text=prompt"]
        assert manifest.warnings == (f"{folder}/{table}: 1 picture is in no row and left out, '3.png' for one",)

    def test_paths_that_leave_the_folder_are_refused_with_their_line(self, photos, problems):
        folder = photos(**{"a/1.png": None, "a/metadata.jsonl": '{"file_name": "../../x.png", "prompt": "x"}\n'})
        [found] = problems(folder)
        assert found.startswith("photos/a/metadata.jsonl:1: image 'a/../../x.png' leaves the folder")

    def test_two_kinds_of_tables(self, photos):
        folder = photos(**{"1.png": None, **TABLES})
        with pytest.raises(UserError, match=r"photos: has metadata\.csv and metadata\.jsonl: keep one kind"):
            read_manifest(folder)

    def test_an_image_column_beside_file_name(self, photos):
        folder = photos(**{"1.png": None, "metadata.jsonl": '{"file_name": "1.png", "image": "x.png"}\n'})
        with pytest.raises(ManifestError, match=r"column 'image' is there, and --map file_name=image would read"):
            read_manifest(folder)
        kept = read_manifest(folder, renames={"file_name": "source_file"})
        assert kept.row(0).sources[0].path == "x.png"

    def test_a_table_without_pictures_is_a_manifest_like_any_other(self, photos):
        folder = photos(**{"metadata.jsonl": '{"prompt": "a", "file_name": "1.png"}\n'})
        assert read_manifest(folder).row(0).sources == ()
