"""Engines in an object store: built there, copied once to each host, never loaded if they were changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3_server import ENVIRONMENT, Server, empty_bucket, running

from wanbatch.engines import selection
from wanbatch.engines.selection import EngineNeeds
from wanbatch.engines.stored_engine import BadEngine, EngineKey, StoredEngine
from wanbatch.engines.verifying import prune_store
from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.planning import engine_stores
from wanbatch.jobs.planning.engine_stores import CopiedStore, create_engines, open_engines
from wanbatch.manifests.storage import fsspec_io

KEY = EngineKey("vae-decode", "weights", 128, 64, 1, "float32", "aot", "torch 2.13", "cpu-x86_64-AVX2")
NEEDS = EngineNeeds("weights", "float32", 4, "2.13", "cpu-x86_64-AVX2")
URL = "s3://shop/engines"
FILE, MANIFEST = f"{KEY.name}.pt2", f"{KEY.name}.json"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """An S3 server, which this process and its children reach."""
    with running() as server, pytest.MonkeyPatch.context() as patched:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            patched.setenv(name, value)
        fsspec_io.forget_file_systems()
        yield server
    fsspec_io.forget_file_systems()


@pytest.fixture(autouse=True)
def store(server, monkeypatch, tmp_path) -> CopiedStore:
    """An empty store, and a host that has copied nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server.mend()
    empty_bucket("shop")
    server.log.clear()
    made = create_engines(URL)
    assert isinstance(made, CopiedStore)
    return made


def added(store: CopiedStore, content: bytes = b"code") -> StoredEngine:
    folder = store.new_build()
    (folder / FILE).write_bytes(content)
    return store.add(KEY, [folder / FILE], {"latents": [1, 32]}, {"seconds": 1.5})


def put(name: str, content: bytes) -> None:
    fsspec_io.file_system(URL).pipe_file(f"{URL}/{name}", content)


def chosen() -> list[StoredEngine]:
    return selection.select(open_engines(URL), NEEDS)


def fetched(server) -> int:
    """How often the engine's file was asked for as a whole."""
    return sum(line.startswith("GET") and line.endswith(FILE) for line in server.log)


def test_what_is_built_is_uploaded_and_its_manifest_last(store, server):
    engine = added(store)
    puts = [line.rpartition("/")[2] for line in server.log if line.startswith("PUT") and ".building-" not in line]
    assert puts == [FILE, MANIFEST]
    assert open_engines(f"{URL}/").engines() == [engine] == [store.find(KEY)]
    assert selection.there_instead(store).startswith("vae-decode 128x64 in float32")
    assert sorted(open_engines(URL).names()) == sorted((FILE, MANIFEST)), "the mark of the trial is gone"


def test_a_host_copies_an_engine_once_for_itself_alone(store, server, tmp_path):
    engine = added(store)
    assert chosen() == [engine] == chosen()
    assert fetched(server) == 1
    path = store.path_of(engine)
    assert path.read_bytes() == b"code"
    assert path.parent.parent == tmp_path / "wanbatch/engines"
    modes = [stat.S_IMODE(os.stat(one).st_mode) for one in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_many_processes_of_a_host_copy_it_once(store, server):
    """Each in a process of its own, all at the same time."""
    added(store)
    code = (
        "from wanbatch.engines import selection; from wanbatch.engines.selection import EngineNeeds\n"
        "from wanbatch.jobs.planning.engine_stores import open_engines\n"
        f"store = open_engines({URL!r})\n"
        f"[one] = selection.select(store, {NEEDS!r})\n"
        "print(store.path_of(one).read_text(), end='')\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate(timeout=300)[0] for one in started] == ["code"] * 2
    assert fetched(server) == 1


HARMS: dict[str, tuple[Callable[[], None], str]] = {
    "cut off": (lambda: put(FILE, b"cod"), "3 bytes instead of 4: it is cut off or was replaced"),
    "changed": (lambda: put(FILE, b"evil"), "was changed since it was built"),
    "missing": (lambda: fsspec_io.file_system(URL).rm_file(f"{URL}/{FILE}"), "is missing"),
    "half a manifest": (lambda: put(MANIFEST, b'{"format": 1'), "is no manifest of an engine, or is damaged"),
    "no text": (lambda: put(MANIFEST, b"\xff"), "is damaged"),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_is_not_what_was_built_is_refused_and_built_again_or_pruned(store, name):
    harm, said = HARMS[name]
    added(store)
    harm()
    with pytest.raises(UserError, match=f"^{URL}/.*{said}: build it again with `wanbatch engines build`, or remove"):
        chosen()
    assert [one.name for one in store.folder.iterdir() if one.name.startswith("vae")] == [], "no copy is kept"
    found = store.find(KEY)
    assert isinstance(found, BadEngine)
    assert said in found.reason
    assert added(store) == store.find(KEY)
    assert len(chosen()) == 1
    harm()
    [(removed, why)] = prune_store(store, None)
    assert removed == KEY.name
    assert said in why
    assert store.names() == {}


def test_a_manifest_under_another_name_is_refused(store):
    added(store)
    other = f"text-aot-{'0' * 16}"
    put(f"{other}.json", fsspec_io.file_system(URL).cat_file(f"{URL}/{MANIFEST}"))
    with pytest.raises(UserError, match=f"^{URL}/{other}: {other}.json is the manifest of another engine: build it"):
        chosen()
    assert [name for name, _ in prune_store(store, None)] == [other, KEY.name], "the version is none of this PyTorch"


def test_a_copy_that_was_changed_on_this_host_is_made_again(store, server):
    engine = added(store)
    chosen()
    for harm in (lambda path: path.write_bytes(b"evil"), Path.unlink, lambda path: path.chmod(0o666)):
        harm(store.path_of(engine))
        assert chosen() == [engine]
        assert store.path_of(engine).read_bytes() == b"code"
    assert fetched(server) == 4


def test_an_engine_that_was_built_again_is_another_copy(store):
    first = added(store)
    chosen()
    second = added(store, b"more")
    assert chosen() == [second]
    assert store.path_of(first).read_bytes() == b"code", "for those who still use it"
    assert store.path_of(second).read_bytes() == b"more"


def age(copy: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(copy, (then, then))


def test_copies_that_a_host_does_not_use_go_after_thirty_days(store, server):
    """Of an engine that was built again, of another store, and what a killed process left; nothing else."""
    first = store.path_of(added(store)).parent
    chosen()
    for days in (31, 29):
        age(first, days)
        assert len(chosen()) == 1
        assert time.time() - first.stat().st_mtime < 3600, "it was used, just now"
    second = added(store, b"more")
    builds = set(store.folder.glob(".building-*"))  # of today
    left, building, young = (first.with_name(name) for name in (f".{KEY.name}.x1", ".building-x1", "dit-other"))
    for folder in (left, building, young):
        folder.mkdir(mode=0o700)
        (folder / FILE).write_bytes(b"half")
    (file := first.with_name("a file")).touch()
    for path, days in ((first, 31), (left, 31), (building, 31), (young, 29), (file, 31)):
        age(path, days)
    assert chosen() == [second]
    assert set(store.folder.iterdir()) == {store.path_of(second).parent, young, file, *builds}
    age(young, 31)
    assert prune_store(store, None)[-1] == (young.name, "is a copy that this host has not used for long")
    assert set(store.folder.iterdir()) == {file, *builds}, "what was pruned from the store has no copy here, either"


def other_copies(store: CopiedStore, *names: str) -> list[Path]:
    """Copies of other engines that nobody has used for long."""
    made = [store.folder / name for name in names]
    for folder in made:
        folder.mkdir(mode=0o700)
        (folder / FILE).write_bytes(b"code")
        age(folder, 31)
    return made


def test_a_copy_that_cannot_be_removed_or_marked_stops_nothing(store, monkeypatch):
    """Neither the run nor the removal of those after it."""
    engine = added(store)
    chosen()
    names = ["dit-first", "dit-other", "text-other"]
    other_copies(store, *names)
    rmtree = shutil.rmtree

    def refuse(path, *more, **named):
        if Path(path).name in names[1:]:
            return rmtree(path, *more, **named)
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        patched.setattr(os, "utime", refuse)
        assert store.remove_unused_copies() == names[1:]
        assert chosen() == [engine]
    assert store.remove_unused_copies() == names[:1]


def test_a_copy_that_other_users_may_read_stays(store):
    """They cannot mark that they use it, and cannot make it again."""
    shared, private = other_copies(store, "dit-shared", "dit-private")
    shared.chmod(0o755)
    assert store.remove_unused_copies() == [private.name]
    shared.chmod(0o700)
    assert store.remove_unused_copies() == [shared.name]


@pytest.mark.parametrize("harm", [lambda: None, HARMS["half a manifest"][0], HARMS["changed"][0]])
def test_what_is_pruned_from_a_store_has_no_copy_here_of_any_build(store, harm, monkeypatch):
    first = added(store)
    chosen()
    second = added(store, b"more")
    chosen()
    copies = {store.path_of(one).parent for one in (first, second)}
    beside = {copies.copy().pop().with_name(f"{KEY.name}-{rest}") for rest in ("x" * 16, "0" * 15, f"{'0' * 16}-1")}
    for folder in beside:  # of others, whose names begin like it
        folder.mkdir(mode=0o700)
    harm()
    held, removed = set(), set()
    one_at_a_time, rmtree = engine_stores.one_at_a_time, shutil.rmtree

    @contextmanager
    def watched(what: str) -> Iterator[None]:
        with one_at_a_time(what):
            held.add(what)
            yield
            held.remove(what)

    def remove(path, *more, **named):
        if path in copies:
            assert f"engine {path}" in held, "no other process makes or checks it meanwhile"
            removed.add(path)
        return rmtree(path, *more, **named)

    monkeypatch.setattr(engine_stores, "one_at_a_time", watched)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert KEY.name in [name for name, _ in prune_store(store, None)]
    assert removed == copies
    assert {one for one in store.folder.iterdir() if one.name.startswith(KEY.name)} == beside


def test_an_upload_that_fails_leaves_no_engine(store, server):
    refused = ("403 Forbidden", "AccessDenied")
    server.fault = lambda method, path: refused if (method, path[-len(MANIFEST) :]) == ("PUT", MANIFEST) else None
    with pytest.raises(MachineryError, match=rf"^{URL}: engines cannot be written there .*run the same command"):
        added(store)
    server.mend()
    assert [one.name for one in store.engines() if isinstance(one, BadEngine)] == [FILE]
    assert store.find(KEY) is None
    assert chosen() == [], "what no manifest names is never loaded"
    assert added(store) == store.find(KEY)


def test_a_store_that_does_not_answer_is_not_empty(store, server):
    added(store)
    server.fault = lambda method, path: ("403 Forbidden", "AccessDenied")
    for ask in (chosen, lambda: store.find(KEY)):
        with pytest.raises(MachineryError, match=rf"^{URL}: cannot be read .*not known to be absent; run the same"):
            ask()
    server.mend()
    assert len(chosen()) == 1


def test_a_disk_without_room(store, monkeypatch, tmp_path):
    added(store)
    usage, full = shutil.disk_usage, shutil._ntuple_diskusage(10, 10, 5 << 20)
    small = tmp_path / "wanbatch"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if Path(path).is_relative_to(small) else usage(path))
    with pytest.raises(MachineryError, match=r"5 MB free, and vae-.* needs 0 MB: set XDG_CACHE_HOME to a folder"):
        chosen()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "large"))
    assert len(chosen()) == 1


def test_a_host_without_a_place_for_copies(store, monkeypatch, tmp_path):
    added(store)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"engines cannot be copied there \(Not a directory\): set XDG_CACHE_HOME to a"
    ):
        chosen()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert len(chosen()) == 1


def test_an_address_without_a_store(store):
    with pytest.raises(UserError, match=r"^s3://shop/engines: no such store of engines: build one with `wanbatch"):
        open_engines(URL)
    with pytest.raises(UserError, match=r"^s3://nowhere/x: cannot be written to .*: make the bucket, or give"):
        create_engines("s3://nowhere/x")
    with pytest.raises(UserError, match="engines are not kept on the hub: give a folder"):
        open_engines("hf://owner/name")
    with pytest.raises(UserError, match="such addresses are not supported here"):
        open_engines("ftp://host/x")


def test_a_store_is_listed_and_pruned(store, tmp_path):
    def engines(*words: str):
        done = CliRunner().invoke(main, ["engines", *words, "--store", URL])
        assert done.exit_code == 0, done.output
        return done.output

    added(store)
    assert "vae-decode 128x64: float32, aot (torch 2.13) for cpu-x86_64-AVX2" in engines("list")
    assert json.loads(engines("list", "--json"))["engines"][0]["weights"] == "weights"
    assert "not run: is of another model" in engines("verify")
    put("stray.pt2", b"code")
    assert engines("prune").splitlines()[-2:] == [
        f"{KEY.name}: removed: is of torch 2.13, and this is torch {here()}",
        "stray.pt2: removed: no manifest names it",
    ]
    assert store.names() == {}


def here() -> str:
    import torch

    return torch.__version__
