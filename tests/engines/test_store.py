"""The store of engines: what it keeps, and everything that it refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from wanbatch.engines import selection
from wanbatch.engines.selection import EngineNeeds, architecture_of
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import BadEngine, EngineKey, StoredEngine
from wanbatch.errors import MachineryError, UserError

KEY = EngineKey("vae-decode", "weights", 128, 64, 1, "float32", "aot", "torch 2.13", "cpu-x86_64-AVX2")
NEEDS = EngineNeeds("weights", "float32", 4, "2.13", "cpu-x86_64-AVX2")


def added(store: Store, key: EngineKey = KEY, content: bytes = b"code", data: bytes | None = None) -> StoredEngine:
    folder = store.folder.parent / "building"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{key.name}.pt2"]
    files[0].write_bytes(content)
    if data is not None:
        files.append(folder / f"{key.name}.pt2.data")
        files[1].write_bytes(data)
    return store.add(key, files, {"latents": [1, 32, "length"]}, {"seconds": 1.5})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "store")


def test_what_is_added_is_found_again(store):
    engine = added(store, data=b"weights")
    assert store.find(KEY) == engine
    assert Store.open(store.folder).engines() == [engine]
    assert store.path_of(engine).read_bytes() == b"code"
    assert engine.inputs == {"latents": [1, 32, "length"]}
    assert store.find(replace(KEY, width=256)) is None


def test_only_its_owner_may_look_into_a_store(store):
    engine = added(store)
    assert os.stat(store.folder).st_mode & 0o777 == 0o700
    for name in (*engine.files, f"{KEY.name}.json"):
        assert os.stat(store.folder / name).st_mode & 0o777 == 0o600, name


def test_each_part_of_a_key_makes_another_engine():
    others = {"component": "vae-encode", "weights": "w", "width": 64, "rows": 2, "dtype": "bfloat16"}
    others |= {"backend": "onnx", "version": "torch 2.14", "architecture": "sm_90", "height": 32}
    names = {KEY.name, *(replace(KEY, **{name: value}).name for name, value in others.items())}
    assert len(names) == len(others) + 1
    assert set(others) == set(EngineKey.__dataclass_fields__)


def test_the_digest_follows_the_files(store):
    first = added(store)
    assert added(store).digest == first.digest
    assert added(store, content=b"other").digest != first.digest
    assert added(store, data=b"weights").digest not in (first.digest, added(store, data=b"other").digest)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def tamper(path: Path) -> None:
    path.write_bytes(b"evil")


def link_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


BAD_FILES = {
    "bytes instead of": cut_off,
    "was changed since": tamper,
    "is missing": Path.unlink,
    "is not a file": link_elsewhere,
    "other users may write": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("problem", BAD_FILES)
def test_files_that_are_not_what_was_built_are_refused_by_every_reader(store, problem):
    engine = added(store)
    path = store.path_of(engine)
    BAD_FILES[problem](path)
    found = store.find(KEY)
    assert isinstance(found, BadEngine)
    assert problem in found.reason
    assert "wanbatch engines build" in found.reason
    with pytest.raises(UserError, match=r"wanbatch engines (build|prune)"):
        selection.select(store, NEEDS)
    assert store.find(KEY) == found
    assert added(store).digest == engine.digest  # building again mends it
    assert store.find(KEY) == engine


def test_an_engine_that_is_fit_is_found_on_this_host(store):
    engine = added(store)
    assert store.problem_here(engine) is None
    assert store.location == str(store.folder)


def damage(path: Path) -> None:
    path.write_text(path.read_text()[:40])


def of_another_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def of_another_engine(path: Path) -> None:
    content = json.loads(path.read_text())
    content["key"]["weights"] = "foreign"
    path.write_text(json.dumps(content))


def leading_out(path: Path) -> None:
    content = json.loads(path.read_text())
    content["files"] = {"../elsewhere": next(iter(content["files"].values()))}
    path.write_text(json.dumps(content))


BAD_MANIFESTS = {
    "is damaged": damage,
    "another version of wanbatch": of_another_format,
    "of another engine": of_another_engine,
    "manifest of another": leading_out,
    "or is damaged": lambda path: path.write_text("[]"),
    "may write to it": lambda path: path.chmod(0o622),
}


@pytest.mark.parametrize("problem", BAD_MANIFESTS)
def test_manifests_that_are_not_the_stores_own_are_refused(store, problem):
    added(store)
    BAD_MANIFESTS[problem](store.folder / f"{KEY.name}.json")
    (found,) = store.engines()
    assert isinstance(found, BadEngine)
    assert problem in found.reason
    assert store.find(KEY) == found
    with pytest.raises(UserError, match="wanbatch engines build"):
        selection.select(store, NEEDS)
    store.remove(found)
    assert store.engines() == []
    assert list(store.folder.iterdir()) == []


def test_files_without_a_manifest_are_named(store):
    added(store)
    (store.folder / "foreign.pt2").write_bytes(b"code")
    found = [one for one in store.engines() if isinstance(one, BadEngine)]
    assert [one.name for one in found] == ["foreign.pt2"]
    store.remove(found[0])
    assert not (store.folder / "foreign.pt2").exists()
    assert store.find(KEY) is not None


def test_what_cannot_be_read_is_not_absent(store, monkeypatch):
    added(store)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("wanbatch.engines.store.os.listdir", refuse)
        with pytest.raises(MachineryError, match=r"cannot be read \(Permission denied\)"):
            store.engines()
    with monkeypatch.context() as patched:
        patched.setattr("wanbatch.engines.store.os.lstat", refuse)
        with pytest.raises(MachineryError, match="cannot be read"):
            store.find(KEY)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(MachineryError, match="cannot be read"):
            selection.select(store, NEEDS)
    with monkeypatch.context() as patched:
        patched.setattr("wanbatch.engines.store.os.stat", refuse)
        with pytest.raises(MachineryError, match="cannot be read"):
            Store.open(store.folder)


def test_a_store_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no such store of engines: build one with"):
        Store.open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        Store.open(tmp_path / "file")
    with pytest.raises(UserError, match="is not a folder"):
        Store.create(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be made \(.*: give --store another folder"):
        Store.create(tmp_path / "file" / "store")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(UserError, match=r"other users may write to it.*chmod"):
        Store.open(open_to_all)


def test_engines_of_others_are_not_believed(store, monkeypatch):
    added(store)
    if os.geteuid() == 0:
        os.chown(store.folder, 12345, -1)
    else:
        monkeypatch.setattr("wanbatch.engines.store.os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        Store.open(store.folder)


def test_only_engines_that_fit_are_chosen(store):
    fitting = [
        added(store),
        added(store, replace(KEY, component="dit", rows=8)),
        added(store, replace(KEY, component="text", width=0, height=0)),
    ]
    for change in (
        {"weights": "other"},
        {"dtype": "bfloat16"},
        {"backend": "onnx"},
        {"version": "torch 2.12"},
        {"architecture": "sm_90"},
        {"component": "dit", "rows": 6},
    ):
        added(store, replace(KEY, **change))
    chosen = selection.select(store, NEEDS)
    assert {one.key for one in chosen} == {one.key for one in fitting}
    assert set(selection.digests(chosen)) == {"vae-decode 128x64", "dit 128x64, 8 rows", "text"}
    assert selection.sizes_of(chosen) == {(128, 64)}
    without = selection.select(store, replace(NEEDS, transformer=False, text=False))
    assert [one.key.component for one in without] == ["vae-decode"]
    assert "vae-decode 128x64 in float32 for cpu-x86_64-AVX2 (aot, torch 2.13)" in selection.there_instead(store)


@pytest.mark.parametrize(
    ("fp8", "partial", "wanted"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_what_the_transformer_must_do_decides_whether_an_engine_can(fp8, partial, wanted):
    assert selection.takes_transformer(fp8, partial) is wanted


def test_architectures():
    assert architecture_of("cuda", (9, 0), "AVX2") == "sm_90"
    assert architecture_of("cpu", (0, 0), "AVX2").endswith("-AVX2")
