"""Paths of sources as people have them: of Windows, through links, in another Unicode form, of another folder."""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from pathlib import Path

import pytest
from manifest_making import encoded

from wanbatch.errors import ManifestError, RowError, UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.path_policy import PathPolicy, spellings


def put(path, width: int = 32):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(width, 32))
    return path


def width_of(path: str, root, fence=None) -> int:
    with SourceLoader(root, fence=fence) as loader:
        size, loaded = loader.size(Source(path)), loader.load(Source(path))
    assert size == (loaded.pixels.shape[1], loaded.pixels.shape[0])
    return size[0]


def refusal(path: str, root, fence=None) -> RowError:
    with SourceLoader(root, fence=fence) as loader, pytest.raises(RowError) as caught:
        loader.load(Source(path))
    return caught.value


def test_where_the_folder_of_sources_has_left_its_files_are_not_missing(tmp_path):
    """A mount that is gone: that is no fault of a row."""
    put(tmp_path / "root" / "1.png")
    with SourceLoader(tmp_path / "root") as loader:
        with pytest.raises(RowError) as missing:
            loader.load(Source("2.png"))
        (tmp_path / "root").rename(tmp_path / "away")
        with pytest.raises(RowError) as left:
            loader.load(Source("1.png"))
        (tmp_path / "away").rename(tmp_path / "root")
        assert loader.size(Source("1.png")) == (32, 32)
    assert (missing.value.kind, left.value.kind) == ("missing_image", "unreadable_image")
    assert f"the folder {tmp_path / 'root'} is gone: is it mounted?" in left.value.message


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_another_file_system_in_the_place_of_the_sources_is_none_without_them(tmp_path):
    """What is left below a mount point when the mount has gone."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as mounted:
        if os.stat(mounted).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("is the same file system")
        put(Path(mounted) / "1.png")
        (tmp_path / "below").mkdir()
        (tmp_path / "root").symlink_to(mounted)
        with SourceLoader(tmp_path / "root", fence="/") as loader:
            assert loader.size(Source("1.png")) == (32, 32)
            (tmp_path / "root").unlink()
            (tmp_path / "root").symlink_to(tmp_path / "below")
            with pytest.raises(RowError) as left:
                loader.load(Source("3.png"))
    assert left.value.kind == "unreadable_image"
    assert "is on another file system than before" in left.value.message


def fence_told(message: str) -> str:
    return re.search(r"--source-fence (\S+)", message)[1]


class TestWindows:
    def test_backslashes_stand_for_slashes(self, tmp_path):
        put(tmp_path / "images" / "cats" / "1.png", 48)
        assert width_of(r"images\cats\1.png", tmp_path) == 48
        assert width_of(r".\images\dogs\..\cats\1.png", tmp_path) == 48

    def test_a_file_of_that_very_name_comes_first(self, tmp_path):
        """Archives that were packed on Windows may leave such names."""
        put(tmp_path / "images" / "1.png", 48)
        put(tmp_path / "images\\1.png", 64)
        assert width_of(r"images\1.png", tmp_path) == 64

    @pytest.mark.parametrize("path", ["C:\\Users\\me\\1.png", "d:/img/1.png", "\\\\nas\\img\\1.png", "\\img\\1.png"])
    def test_drives_and_shares_are_named_as_such(self, jsonl, problems, tmp_path, path):
        (found,) = problems(jsonl({"image": path}))
        assert "is a path of a Windows machine" in found
        assert f"relative to {tmp_path}" in found or "relative to " in found
        assert refusal(path, tmp_path).kind == "forbidden_source"

    def test_they_do_not_leave(self, jsonl, problems, tmp_path):
        (found,) = problems(jsonl({"image": r"..\images\1.png"}))
        assert "leaves the folder" in found
        put(tmp_path / "secret.png")
        (tmp_path / "root").mkdir()
        assert refusal(r"..\secret.png", tmp_path / "root").kind == "forbidden_source"
        assert refusal(r"a\..\..\secret.png", tmp_path / "root").kind == "forbidden_source"

    def test_what_is_missing_says_where_it_was_looked_for(self, tmp_path):
        assert f"does not exist in {tmp_path}" in refusal(r"images\1.png", tmp_path).message


class TestNames:
    @pytest.mark.parametrize("stored", ["NFC", "NFD"])
    @pytest.mark.parametrize("asked", ["NFC", "NFD"])
    def test_unicode_forms_find_each_other(self, tmp_path, stored, asked):
        put(tmp_path / unicodedata.normalize(stored, "fotos-é/café.png"), 48)
        assert width_of(unicodedata.normalize(asked, "fotos-é/café.png"), tmp_path) == 48

    def test_also_where_a_path_mixes_them(self, tmp_path):
        folder, name = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "café.png")
        put(tmp_path / folder / name, 48)
        asked = f"{unicodedata.normalize('NFD', folder)}/{unicodedata.normalize('NFC', name)}"
        assert width_of(asked, tmp_path) == 48
        assert width_of(asked.replace("/", "\\"), tmp_path) == 48

    @pytest.mark.parametrize(
        "name", ["with space.png", "hash#1.png", "percent%20.png", "emoji😀.png", "q?.png", "c:1.png"]
    )
    def test_odd_names_are_names(self, tmp_path, name):
        put(tmp_path / "img" / name, 48)
        for path in (
            f"img/{name}",
            f"./img/{name}",
            f"img/../img/{name}",
            f"img//{name}",
            str(tmp_path / "img" / name),
        ):
            assert width_of(path, tmp_path) == 48

    @pytest.mark.parametrize("path", ["img/heart.png ", "img/Heart.PNG", "img/haert.png"])
    def test_the_nearest_name_is_told(self, tmp_path, path):
        put(tmp_path / "img" / "heart.png")
        put(tmp_path / "img" / "anchor.png")
        error = refusal(path, tmp_path)
        assert error.kind == "missing_image"
        assert error.message.endswith(f"does not exist in {tmp_path}: there is 'heart.png', if that is meant")

    @pytest.mark.parametrize("path", ["img/dog01.png", "img/dog7-1.png"])
    def test_a_name_with_another_number_is_not_told(self, tmp_path, path):
        put(tmp_path / "img" / "dog07.png")
        put(tmp_path / "img" / "dog7-2.png")
        assert refusal(path, tmp_path).message.endswith(f"does not exist in {tmp_path}")
        assert refusal("img/dgo07.png", tmp_path).message.endswith("there is 'dog07.png', if that is meant")

    def test_a_folder_that_is_not_there_is_told(self, tmp_path):
        put(tmp_path / "images" / "1.png")
        message = refusal("image/1.png", tmp_path).message
        assert f"there is no folder 'image' in {tmp_path}" in message
        assert message.endswith("there is 'images', if that is meant")

    def test_names_outside_are_not_told(self, tmp_path):
        put(tmp_path / "secret.png")
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "away").symlink_to("..")
        assert "secret" not in refusal("away/secrt.png", tmp_path / "root").message.partition("secrt.png")[2]

    def test_a_folder_is_listed_once(self, tmp_path, monkeypatch):
        put(tmp_path / "img" / "a.png")
        listed = []
        scan = os.scandir
        monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(str(folder)), scan(folder))[1])
        with SourceLoader(tmp_path) as loader:
            for number in range(20):
                with pytest.raises(RowError, match="does not exist"):
                    loader.load(Source(f"img/é{number}.png"))
        assert listed == [str(tmp_path / "img")]

    def test_a_folder_that_cannot_be_looked_into_is_not_an_absent_file(self, tmp_path, monkeypatch):
        put(tmp_path / "a.png")
        real = os.open

        def fail(path, *arguments, **options):
            if str(path).endswith("a.png"):
                raise PermissionError(13, "Permission denied", path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", fail)
        assert refusal("a.png", tmp_path).kind == "unreadable_image"


class TestOtherFolders:
    """The remedy that a message gives is taken, and works."""

    @pytest.fixture
    def project(self, tmp_path):
        put(tmp_path / "proj" / "img" / "1.png", 48)
        (tmp_path / "proj" / "manifests").mkdir()
        return tmp_path / "proj"

    def test_a_manifest_beside_the_pictures(self, project):
        path = project / "manifests" / "up.jsonl"
        path.write_text('{"image": "../img/1.png"}\n')
        with pytest.raises(ManifestError) as caught:
            read_manifest(path)
        message = str(caught.value.problems[0])
        assert f"leaves the folder {project / 'manifests'}" in message
        assert fence_told(message) == str(project)
        manifest = read_manifest(path, source_fence=fence_told(message))
        assert (manifest.source_root, manifest.source_fence) == (project / "manifests", project)
        assert width_of("../img/1.png", manifest.source_root, manifest.source_fence) == 48
        assert refusal("../../x.png", manifest.source_root, manifest.source_fence).kind == "forbidden_source"

    def test_an_absolute_path_elsewhere(self, project):
        path = project / "manifests" / "abs.jsonl"
        path.write_text(f'{{"image": "{project}/img/1.png"}}\n')
        with pytest.raises(ManifestError) as caught:
            read_manifest(path)
        told = fence_told(str(caught.value.problems[0]))
        manifest = read_manifest(path, source_fence=told)
        assert width_of(str(project / "img" / "1.png"), manifest.source_root, told) == 48

    def test_a_manifest_written_for_the_current_folder(self, project, monkeypatch):
        monkeypatch.chdir(project)
        for here in (project, project.parent):  # the folder above the manifest's is looked into from anywhere
            monkeypatch.chdir(here)
            message = refusal("img/1.png", project / "manifests").message
            assert f"does not exist in {project / 'manifests'}, but it does in {project}" in message
            told = re.search(r"--source-root (\S+)", message)[1]
            assert width_of("img/1.png", told) == 48

    def test_an_equal_path_elsewhere_is_not_told_where_the_root_has_the_others(self, project, monkeypatch):
        """A picture that was renamed, in one of two datasets with the same folders."""
        root = project / "own"
        put(root / "img" / "2.png")
        message = refusal("img/1.png", root).message
        assert "--source-root" not in message
        put(root / "plain.png")
        put(project / "gone.png")
        with SourceLoader(root, allow_http=False, fence=root) as loader:
            with pytest.raises(RowError) as before:
                loader.load(Source("gone.png"))
            loader.load(Source("plain.png"))
            with pytest.raises(RowError) as after:
                loader.load(Source("gone.png"))
        assert f"set --source-root {project}" in str(before.value)
        assert "--source-root" not in str(after.value)

    def test_a_hub_snapshot(self, tmp_path):
        """Manifest and pictures are links to ../../blobs."""
        blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
        put(blobs / "0011", 48)
        (blobs / "0022").write_text('{"image": "images/1.png"}\n')
        (snapshot / "images").mkdir(parents=True)
        (snapshot / "images" / "1.png").symlink_to("../../../blobs/0011")
        (snapshot / "m.jsonl").symlink_to("../../blobs/0022")
        manifest = read_manifest(snapshot / "m.jsonl")
        error = refusal("images/1.png", manifest.source_root, manifest.source_fence)
        assert error.kind == "forbidden_source"
        assert f"is a link to {blobs / '0011'}" in error.message
        manifest = read_manifest(snapshot / "m.jsonl", source_fence=fence_told(error.message))
        assert manifest.source_fence == tmp_path / "hub"
        assert width_of("images/1.png", manifest.source_root, manifest.source_fence) == 48

    def test_a_curated_folder_of_links(self, tmp_path):
        put(tmp_path / "originals" / "a.png", 48)
        (tmp_path / "curated").mkdir()
        (tmp_path / "curated" / "a.png").symlink_to(tmp_path / "originals" / "a.png")
        told = fence_told(refusal("a.png", tmp_path / "curated").message)
        assert width_of("a.png", tmp_path / "curated", told) == 48
        (tmp_path / "curated" / "gone.png").symlink_to("nowhere.png")
        assert "is a link to nowhere.png, where there is nothing" in refusal("gone.png", tmp_path / "curated").message

    def test_a_root_that_is_a_link_with_a_fence_around_its_target(self, project, tmp_path):
        (tmp_path / "alias").symlink_to(project / "manifests")
        assert width_of("../img/1.png", tmp_path / "alias", project) == 48

    def test_links_that_leave_the_wider_fence_are_still_refused(self, project, tmp_path):
        put(tmp_path / "secret.png")
        (project / "img" / "link.png").symlink_to("../../secret.png")
        assert refusal("../img/link.png", project / "manifests", project).kind == "forbidden_source"

    def test_a_fence_that_is_none(self, jsonl, tmp_path):
        with pytest.raises(UserError, match="is not a folder: give --source-fence an existing one"):
            read_manifest(jsonl({"image": "a.png"}), source_fence=tmp_path / "none")
        with pytest.raises(UserError, match="give both --source-root and --source-fence"):
            read_manifest(jsonl({"image": "a.png"}), source_fence="s3://shop/img")

    def test_a_fence_beside_the_root(self, project):
        """Only absolute paths, and relative ones that lead there, are left then."""
        policy = PathPolicy(project / "manifests", fence=project / "img")
        assert policy.problem("../img/1.png") is None
        assert f"relative paths start from {project / 'manifests'}" in policy.problem("1.png")


class TestStores:
    """By text alone: there is nothing to ask."""

    @pytest.fixture
    def policy(self):
        return PathPolicy("s3://shop/sets/a/manifests", fence="s3://shop/sets/a")

    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("../img/1.png", "s3://shop/sets/a/img/1.png"),
            (r"..\img\1.png", "s3://shop/sets/a/img/1.png"),
            ("s3://shop/sets/a/img/x/../1.png", "s3://shop/sets/a/img/1.png"),
            ("1.png", "s3://shop/sets/a/manifests/1.png"),
        ],
    )
    def test_parents_inside_the_fence(self, policy, path, location):
        assert policy.problem(path) is None
        assert location in policy.locations(path)

    @pytest.mark.parametrize(
        "path",
        [
            "../../b/1.png",
            "../../../../other/1.png",
            "../" * 9 + "x",
            r"..\..\b\1.png",
            "s3://shop/sets/a/../b/1.png",
        ],
    )
    def test_parents_outside_are_refused(self, policy, path):
        assert "the folder s3://shop/sets/a" in policy.problem(path)
        assert all(policy.is_inside(location) for location in policy.locations(path))

    def test_the_remedy(self, policy):
        told = fence_told(policy.problem("../../b/1.png"))
        assert told == "s3://shop/sets"
        assert PathPolicy(policy.root, fence=told).problem("../../b/1.png") is None


def test_spellings_begin_with_the_literal_one():
    assert spellings("a/b.png") == ("a/b.png",)
    assert spellings("a\\b.png") == ("a\\b.png", "a/b.png")
    assert spellings("cafe\u0301.png") == ("cafe\u0301.png", "caf\u00e9.png")
