"""Engines in the place of a small model's parts, as a worker and the driver of a run see them."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_making import StandIn, request_for, stand_in_store
from picture_requests import PLAIN, make, source
from s3_server import ENVIRONMENT, empty_bucket, running
from small_models import save_random_pipeline

from wanbatch.engines import aot, building, probe, selection, verifying
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import StoredEngine
from wanbatch.errors import NodeError, UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import GivenSettings
from wanbatch.jobs.driver.engine_choice import choose_engines
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.planning.engine_stores import create_engines, open_engines
from wanbatch.jobs.worker.engine_use import engines_here
from wanbatch.jobs.worker.messages import EngineChoice, WorkerSetup
from wanbatch.manifests.storage import fsspec_io
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry

ON_CPU = ExecutionConfig("cpu", "fp32", compile=False)
HERE = Hardware(torch=str(torch.__version__), cpu=torch.backends.cpu.get_cpu_capability())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return registry.find(str(save_random_pipeline(tmp_path_factory.mktemp("model") / "small")))


@pytest.fixture(autouse=True)
def _no_other_process(monkeypatch):
    monkeypatch.setattr(probe, "failure_of", lambda store, engines, seconds=1: None)
    monkeypatch.setattr(probe, "failure_at", lambda path, description, seconds=1: None)


def setup_for(model, slots: int = 2) -> WorkerSetup:
    return WorkerSetup(model, "out", ".", False, "cpu", "float32", slots, 2)


def with_engines(model, store: Store, slots: int = 2) -> Wan:
    """The model with the engines of a store."""
    wan = Wan.load(model, slots=slots)
    engines_here(setup_for(model), EngineChoice(str(store.folder), None, False), "host").use_in(wan)
    return wan


def test_pictures_with_engines_are_those_without(model, tmp_path, monkeypatch):
    store, made = stand_in_store(tmp_path / "store", request_for(model, "text", "dit", "vae"), monkeypatch)
    assert made.built == [
        "text",
        "dit 64x64, 2 rows",
        "dit 64x64, 4 rows",
        "vae-encode 64x64",
        "vae-decode 64x64",
    ]
    rows = [
        PLAIN,
        replace(PLAIN, id="b", guidance=1.0, seed=8),
        replace(PLAIN, id="c", sources=(source(1),), creativity=0.5),
        replace(PLAIN, id="d", width=96, seed=9),
    ]
    without = make(Wan.load(model, slots=2), *rows)
    wan = with_engines(model, store)
    found = {result.request.id: result for result in wan.generate(rows)}
    assert all(np.array_equal(found[name].pixels, without[name]) for name in without)
    engine, module = "aot-float32", "eager-float32"
    of_all = {"text": engine, "encode": engine, "denoise": engine, "decode": engine}
    assert found["a"].backends == found["c"].backends == of_all
    assert found["d"].backends == {**of_all, "encode": module, "denoise": module, "decode": module}
    shapes = set(made.calls)
    assert {(1, 3, 64, 64), (1, 8, 4, 4), (2, 8, 4, 4), (4, 8, 4, 4)} <= shapes
    assert not any(shape[-1] == 6 for shape in shapes)


def test_engines_of_an_object_store_are_used_as_those_of_a_folder(model, tmp_path, monkeypatch):
    made = StandIn()
    monkeypatch.setattr(aot, "build", made.build)
    monkeypatch.setattr(aot, "load", made.load)
    for name, value in {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    request, url = request_for(model, "vae"), "s3://shop/engines"
    with running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fsspec_io.forget_file_systems()
        empty_bucket("shop")
        assert [one.what for one in building.build(create_engines(url), request)] == ["built", "built"]
        assert [one.what for one in building.build(create_engines(url), request)] == ["there already"] * 2
        assert {one.verdict for one in verifying.verify_store(open_engines(url), model)} == {"right"}
        chosen = choose_engines(GivenSettings(engines=f"{url}/"), model, ON_CPU, 2, HERE)
        assert chosen.choice == EngineChoice(url, chosen.digests, False)
        wan = Wan.load(model, slots=2)
        engines_here(setup_for(model), chosen.choice, "host").use_in(wan)
        server.fault = lambda method, path: ("403 Forbidden", "AccessDenied")
        with pytest.raises(NodeError, match=rf"^host far: {url}: cannot be read"):
            engines_here(setup_for(model), chosen.choice, "far")
    fsspec_io.forget_file_systems()
    [result] = wan.generate([PLAIN])
    assert result.backends["decode"] == "aot-float32"
    assert np.array_equal(result.pixels, make(Wan.load(model, slots=2), PLAIN)["a"])
    assert len(list((tmp_path / "wanbatch/engines").glob("vae-*"))) == 2, "each was copied once"


def test_a_row_does_not_depend_on_its_neighbours_with_engines(model, tmp_path, monkeypatch):
    store, _ = stand_in_store(tmp_path / "store", request_for(model, "dit"), monkeypatch, factor=0.9)
    wan = with_engines(model, store)
    rows = [replace(PLAIN, id=str(seed), seed=seed, steps=3 + seed % 2) for seed in range(4)]
    together = make(wan, *rows)
    assert all(np.array_equal(make(wan, row)[row.id], together[row.id]) for row in rows)
    plain = make(Wan.load(model, slots=2), rows[0])["0"]
    assert not np.array_equal(plain, together["0"])  # the engine did run


def test_a_step_cache_that_needs_residuals_keeps_the_transformer(model, tmp_path, monkeypatch):
    store, made = stand_in_store(tmp_path / "store", request_for(model, "dit", "vae"), monkeypatch)
    settings = GivenSettings(engines=store.location, step_cache="taylor:interval=2")
    chosen = choose_engines(settings, model, ON_CPU, 2, HERE)
    assert set(chosen.digests) == {"vae-encode 64x64", "vae-decode 64x64"}
    assert "the transformer runs without an engine, because of" in chosen.warnings[0]
    assert "step cache taylor:interval=2" in chosen.warnings[0]
    gated = GivenSettings(engines=store.location, step_cache="none+gate:interval=2")
    assert "dit 64x64, 4 rows" in choose_engines(gated, model, ON_CPU, 2, HERE).digests
    wan = with_engines(model, store)
    wan.use_step_cache("none+gate:interval=2")
    plain = Wan.load(model, slots=2)
    plain.use_step_cache("none+gate:interval=2")
    assert np.array_equal(make(wan, PLAIN)["a"], make(plain, PLAIN)["a"])
    assert (2, 8, 4, 4) in made.calls


def test_the_fingerprint_has_the_engines_of_a_run_that_uses_some(model, tmp_path, monkeypatch):
    store, _ = stand_in_store(tmp_path / "store", request_for(model, "vae"), monkeypatch)
    settings = GivenSettings(engines=store.location)
    chosen = choose_engines(settings, model, ON_CPU, 2, HERE)
    with_some = fingerprint_of(settings, model, ON_CPU, 2, HERE, chosen.digests)
    without = fingerprint_of(GivenSettings(), model, ON_CPU, 2, HERE)
    assert with_some == {**without, "engines": dict(chosen.digests)}
    assert all(len(digest) == 16 for digest in chosen.digests.values())
    other = choose_engines(settings, model, replace(ON_CPU, precision="bf16"), 2, HERE)
    assert fingerprint_of(settings, model, ON_CPU, 2, HERE, other.digests) == without
    assert "has no engine for this model in bfloat16" in other.warnings[0]
    assert "vae-decode 64x64 in float32" in other.warnings[0]


def test_a_run_tells_its_workers_and_its_user(model, tmp_path, monkeypatch):
    store, _ = stand_in_store(tmp_path / "store", request_for(model, "vae"), monkeypatch)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "a", "prompt": "p"}\n{"id": "b", "prompt": "p", "width": 96, "height": 64}\n'
    )

    def prepared(**given):
        settings = GivenSettings(model=model.name, device="cpu", slots=2, **given)
        return prepare_run(tmp_path / "rows.jsonl", tmp_path / "out", settings)

    context = prepared(engines=store.location)
    setup = context.worker_setup(str(tmp_path / "out"), (), np.array([], dtype=np.int64), 1)
    assert setup.engines == EngineChoice(str(store.folder), context.fingerprint["engines"], False)
    assert any("has no engines for pictures of 96x64: these are made without" in one for one in context.warnings)
    assert context.plan_note()["settings"]["engines"] == str(store.folder)
    assert "engines" not in prepared().fingerprint
    assert prepared().worker_setup("out", (), np.array([], dtype=np.int64), 1).engines is None
    with pytest.raises(UserError, match=r"setting require_engines: .* no engines for pictures of 96x64: build them"):
        prepared(engines=store.location, require_engines=True)


def test_engines_that_are_required_and_missing_are_an_error(model, tmp_path, monkeypatch):
    store, _ = stand_in_store(tmp_path / "store", request_for(model, "dit"), monkeypatch)
    settings = GivenSettings(engines=store.location, require_engines=True)
    assert choose_engines(settings, model, ON_CPU, 2, HERE).digests
    with pytest.raises(UserError, match=r"require_engines: .* no engine for .* 3 slots; it has: dit 64x64, 2 rows"):
        choose_engines(settings, model, ON_CPU, 3, HERE)
    with pytest.raises(UserError, match="needs engines, too: give --engines a store"):
        choose_engines(GivenSettings(require_engines=True), model, ON_CPU, 2, HERE)
    with pytest.raises(UserError, match="no such store of engines"):
        choose_engines(GivenSettings(engines=str(tmp_path / "none")), model, ON_CPU, 2, HERE)
    with pytest.raises(NodeError, match=r"host far: .* has no engine for its device"):
        engines_here(setup_for(model, slots=3), EngineChoice(str(store.folder), None, True), "far")


def test_a_worker_takes_what_the_driver_chose_or_refuses(model, tmp_path, monkeypatch):
    store, _ = stand_in_store(tmp_path / "store", request_for(model, "vae"), monkeypatch)
    chosen = choose_engines(GivenSettings(engines=store.location), model, ON_CPU, 2, HERE)
    assert chosen.choice is not None
    assert len(engines_here(setup_for(model), chosen.choice, "far").engines) == 2
    mixed = choose_engines(GivenSettings(engines=store.location, mixed_devices=True), model, ON_CPU, 2, HERE)
    assert mixed.choice == EngineChoice(str(store.folder), None, False)
    found = next(one for one in store.engines() if isinstance(one, StoredEngine))
    store.remove(found)
    with pytest.raises(NodeError, match=r"host far: in .* it finds other engines than the host of this command"):
        engines_here(setup_for(model), chosen.choice, "far")
    assert len(engines_here(setup_for(model), mixed.choice, "far").engines) == 1
    monkeypatch.setattr(probe, "failure_of", lambda store, engines, seconds=1: "its process ended by SIGILL")
    with pytest.raises(NodeError, match=r"host far: its process ended by SIGILL: build it again on this host"):
        engines_here(setup_for(model), mixed.choice, "far")


def test_an_engine_that_was_changed_stops_a_run_and_is_built_again(model, tmp_path, monkeypatch):
    request = request_for(model, "vae")
    store, made = stand_in_store(tmp_path / "store", request, monkeypatch)
    engine = next(one for one in store.engines() if isinstance(one, StoredEngine))
    store.path_of(engine).write_bytes(b"evil")
    with pytest.raises(UserError, match="build it again with `wanbatch engines build`"):
        choose_engines(GivenSettings(engines=store.location), model, ON_CPU, 2, HERE)
    made.built.clear()
    built = {one.label: one for one in building.build(store, request)}
    assert made.built == [engine.key.label]
    assert built[engine.key.label].what == "rebuilt"
    assert "bytes instead of" in built[engine.key.label].why
    assert {one.what for one in built.values()} == {"rebuilt", "there already"}
    assert choose_engines(GivenSettings(engines=store.location), model, ON_CPU, 2, HERE).digests


def test_an_engine_that_computes_something_else_is_not_kept(model, tmp_path, monkeypatch):
    store, made = stand_in_store(tmp_path / "store", request_for(model), monkeypatch)
    made.factor = 1.01
    with pytest.raises(UserError, match=r"vae-encode 64x64: is not what the module computes.*relative 1\.0"):
        list(building.build(store, request_for(model, "vae")))
    assert os.listdir(store.folder) == []


def test_verifying_and_pruning(model, tmp_path, monkeypatch):
    store, made = stand_in_store(tmp_path / "store", request_for(model, "vae"), monkeypatch)
    assert [one.verdict for one in verifying.verify_store(store, model)] == ["right", "right"]
    made.factor = 1.01
    assert [one.verdict for one in verifying.verify_store(store, model)] == ["wrong", "wrong"]
    other = replace(model, digest="other")
    assert {one.verdict for one in verifying.verify_store(store, other)} == {"not run"}
    assert verifying.prune_store(store, None) == []
    (store.folder / "stray.pt2").touch()
    assert verifying.prune_store(store, None) == [("stray.pt2", "no manifest names it")]
    assert {why for _, why in verifying.prune_store(store, {"other"})} == {"is of another model"}
    assert store.engines() == []
    assert selection.there_instead(store) == "nothing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": ()}, "for one size each: give --size"),
        ({"sizes": ((60, 64),)}, "multiples of 32"),
        ({"architectures": ("8.9",)}, r"aot builds for the device of this machine alone"),
        ({"device": "cuda", "components": ("text",)}, "our own kernels run the text encoder"),
        ({"backend": "tensorrt", "architectures": ("native",)}, "its library is not installed"),
    ],
)
def test_what_cannot_be_built_is_refused_before_a_model_is_loaded(model, tmp_path, change, words):
    request = replace(request_for(model, "vae"), **change)
    with pytest.raises(UserError, match=words):
        building.check(request)
