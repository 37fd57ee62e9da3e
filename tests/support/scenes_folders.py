"""Remedies for output folders: opening them, going on with them, mending them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from manifest_making import unit_of
from output_folders import publish
from remedy_scenes import At, raised, scene

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver import resume
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.manifests.dataset import publisher, settled_log
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.manifests.storage.local import LocalBackend


def filled(out: Path, *names: str, **columns: object) -> None:
    """Make an output folder with some images. columns: that pass through."""
    with OutputFolder.open(out, {}) as folder:
        unit = folder.committed().next_unit
        passed = {"passthrough": pa.table(columns)} if columns else {}
        publish(folder, unit, list(names), **passed)


@scene
def folders_that_cannot_be_filled(at: At) -> Iterator[str]:
    OutputFolder.open(at.folder / "out", {"steps": 2}).close()
    yield raised(lambda: OutputFolder.open(at.folder / "out", {"steps": 3}))
    OutputFolder.open(at.folder / "out", {"steps": 2}).close()
    OutputFolder.open(at.folder / "other", {"steps": 3}).close()
    found, _ = resume.folder_of_run(at.folder / "out", 4, lambda slots: {"steps": 3}, True)
    assert str(found).endswith("out-2")
    OutputFolder.open(found, {"steps": 3}).close()
    at.write("thesis/thesis.txt", "x")
    for wrong in ("thesis", "thesis/thesis.txt"):
        yield raised(lambda wrong=wrong: OutputFolder.open(at.folder / wrong, {}))
        (at.folder / "empty").mkdir(exist_ok=True)
        for good in ("empty", "new"):
            OutputFolder.open(at.folder / good, {}).close()
    at.write("out/_wanbatch/run.json", "{")
    yield raised(lambda: OutputFolder.open(at.folder / "out", {}))
    OutputFolder.open(at.folder / "another", {}).close()


@scene
def a_folder_that_is_held(at: At) -> Iterator[str]:
    with OutputFolder.open(at.folder / "out", {}):
        yield raised(lambda: OutputFolder.open(at.folder / "out", {}))
        OutputFolder.open(at.folder / "other", {}).close()
    OutputFolder.open(at.folder / "out", {}).close()


@scene
def columns_that_a_folder_has_otherwise(at: At) -> Iterator[str]:
    filled(at.folder / "out", "a", score=pa.array([1]))
    wrong, right = pa.schema([("score", pa.string())]), pa.schema([("score", pa.int64())])
    with OutputFolder.open(at.folder / "out", {}) as folder:
        yield raised(lambda: folder.common_columns(wrong))
        assert folder.common_columns(right) is not None
    with OutputFolder.open(at.folder / "other", {}) as folder:
        folder.common_columns(wrong)


@scene
def a_part_that_is_damaged(at: At) -> Iterator[str]:
    filled(at.folder / "out", "a", score=pa.array([1]))
    part = at.folder / "out/data/part-00000.parquet"
    raw = bytearray(part.read_bytes())
    raw[40] ^= 255  # in the first page, which has a checksum
    part.write_bytes(raw)
    grown = pa.schema([("score", pa.float64())])
    with OutputFolder.open(at.folder / "out", {}) as folder:
        said = raised(lambda: folder.change_columns(folder.common_columns(grown)))
    yield said
    command = re.search(r"run `wanbatch (repair \S+)`", said)[1]  # type: ignore[index]
    yield at.works(*command.split())
    with OutputFolder.open(at.folder / "out", {}) as folder:
        assert folder.committed().made == set()
        publish(folder, folder.committed().next_unit, ["a"])
    assert repair(at.folder / "out").whole


@scene
def a_part_that_a_run_which_was_ended_left_half_replaced(at: At) -> Iterator[str]:
    def ended(*given: object) -> None:
        raise KeyboardInterrupt

    out = at.folder / "out"
    with OutputFolder.open(out, {}) as folder, at.monkeypatch.context() as patched:
        publish(folder, 0, ["a", "b"])
        patched.setattr(LocalBackend, "replace", ended)
        with suppress(KeyboardInterrupt):
            folder.publish(write_attempt(out, attempt="n", **unit_of(1, ["b"])), replace=True)
    at.monkeypatch.setattr(settled_log, "PAUSE_SECONDS", 0.0)
    yield raised(lambda: committed_rows(str(out)))
    OutputFolder.open(out, {}).close()
    held = committed_rows(str(out))
    assert held is not None
    assert held.images == 2


@scene
def a_commit_that_failed_after_it_was_written(at: At) -> Iterator[str]:
    real = publisher.write_commit

    def written_and_failed(backend: object, records: object) -> None:
        real(backend, records)  # type: ignore[arg-type]
        raise OSError(5, "Input/output error", "commits")

    with OutputFolder.open(at.folder / "out", {}) as folder:
        with at.monkeypatch.context() as patched:
            patched.setattr(publisher, "write_commit", written_and_failed)
            raised(lambda: publish(folder, 0, ["a"]))
        yield raised(lambda: publish(folder, 1, ["b"]))
    with OutputFolder.open(at.folder / "out", {}) as folder:
        publish(folder, folder.committed().next_unit, ["b"])
        assert folder.committed().made == {"a", "b"}


@scene
def the_hub_as_output(at: At) -> Iterator[str]:
    yield raised(lambda: open_backend("hf://datasets/owner/name"))
    OutputFolder.open(at.folder / "out", {}).close()


@scene
def manifests_that_do_not_go_on_with_a_folder(at: At) -> Iterator[str]:
    first = prepare(at.rows({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}), Settings())[0]
    digests = dict(zip(first.ids(), first.images["digest"].to_pylist(), strict=True))
    with OutputFolder.open(at.folder / "out", {}) as folder:
        folder.publish(write_attempt(folder.url, attempt="t", digests=digests, **unit_of(0, ["a", "b"])))

    def opened(*rows: dict, anew: bool = False) -> None:
        plan = prepare(at.rows(*rows), Settings())[0]
        with OutputFolder.open(at.folder / "out", {}) as folder:
            resume.rows_to_change(folder, plan, None, anew)

    a, b = {"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}
    yield raised(lambda: opened(a))
    opened(a, b)
    opened(a, b, {"id": "c", "prompt": "x"})
    yield raised(lambda: opened(a, {**b, "prompt": "y"}))
    opened(a, b, {"id": "c", "prompt": "y"})
    opened(a, {**b, "prompt": "y"}, anew=True)


@scene
def paths_of_output_folders(at: At) -> Iterator[str]:
    filled(at.folder / "out", "a")
    yield raised(lambda: prepare_run("out", "out", Settings()))
    prepare_run("out", "second", Settings())
    yield "\n".join(prepare_run("out", "second [v2]", Settings()).warnings)
    assert not [said for said in prepare_run("out", "second-v2", Settings()).warnings if "in its path" in said]


@scene
def sources_that_were_decoded_otherwise(at: At) -> Iterator[str]:
    plan = prepare(at.rows({"id": "a", "image": "a.png"}), Settings())[0]
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(resume.__name__).addHandler(handler)
    try:
        for out, made in (("out", ["a"]), ("other", [])):
            if made:
                filled(at.folder / out, *made)
            with OutputFolder.open(at.folder / out, {}) as folder:
                resume.warn_of_other_decoding(folder, plan, {"source_decoding": {"version": 2}}, _Log())  # type: ignore[arg-type]
    finally:
        logging.getLogger(resume.__name__).removeHandler(handler)
    (said,) = told
    yield said


class _Log:
    """In place of a run's log."""

    def write(self, event: str, **fields: object) -> None:
        pass
