"""Remedies of what comes after a run: checks, reports, estimates from earlier runs, folders that are gone on with."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from output_folders import publish
from picture_folders import FINGERPRINT, fill
from remedy_scenes import At, raised, scene
from report_folders import fill_folder, write_checks

from wanbatch.jobs.augment.regeneration import run_again
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.resume import rows_to_drop, warn_of_other_decoding
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.report.after_run import report_after_run
from wanbatch.jobs.reporting.report.checks import read_checks
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.dataset.fingerprint import SOURCE_DECODING
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.sources.decoding import decoding_versions


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What the package's loggers warn of meanwhile."""
    told: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Kept(logging.WARNING)
    logging.getLogger("wanbatch").addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger("wanbatch").removeHandler(handler)


def warned(call: Callable[[], object]) -> str:
    """The warnings of a call."""
    with warnings() as told:
        call()
    return "\n".join(told)


@scene
def checks_of_folders(at: At) -> Iterator[str]:
    (at.folder / "none").mkdir()
    yield at.refused("check", "none")
    with OutputFolder.open(at.folder / "out", FINGERPRINT, {"wanbatch": "0.1.0"}):
        pass
    yield at.refused("check", "out")
    fill(at.folder / "out", ["a", "b"])
    at.works("check", "out")
    yield at.refused("check", "out", "--classes", "a,b")
    at.rows({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    fill_folder(at.folder / "plain", 1, 4, 0, source_root=at.folder)
    at.rows({"prompt": "x"}, name="rows.jsonl")
    yield at.refused("check", "plain", "--regenerate", "1")
    at.works("check", "plain")


@scene
def pictures_that_are_not_made_again_yet(at: At) -> Iterator[str]:
    """A run that is stopped leaves some; the next one makes them."""
    left = [3, 0]
    at.monkeypatch.setattr("wanbatch.jobs.driver.run.run", lambda *given: SimpleNamespace(pending=left.pop(0)))
    yield raised(lambda: run_again(Path("m.jsonl"), "out", Settings()))
    run_again(Path("m.jsonl"), "out", Settings())


@scene
def checks_in_reports(at: At) -> Iterator[str]:
    fill_folder("out", 2, 4, 0)
    names = [f"row-{number:06d}" for number in range(8)]
    made = frozenset(names)
    write_checks(at.folder / "out", names)
    second = at.folder / "out/checks/part-00001.parquet"
    table = pq.read_table(second)
    odd = table.set_column(table.column_names.index("sharpness"), "sharpness", pa.array([["x"]] * len(table)))
    pq.write_table(odd, second)
    for damage in (None, b"PAR1 no more"):
        if damage is not None:
            second.write_bytes(damage)
        yield str(read_checks("out", made).problem)
        at.works("check", "out")
        assert read_checks("out", made).problem is None


@scene
def reports_of_folders(at: At) -> Iterator[str]:
    fill_folder("out", 1, 4, 0)
    yield at.refused("report", "out", "--to", "a.png/report.html")
    at.works("report", "out", "--to", "deeper/report.html")
    yield at.refused("report", "out", "--to", "figures.json")
    at.works("report", "out", "--to", "figures.html")
    assert (at.folder / "figures.html").read_text().startswith("<!doctype html>")
    assert (at.folder / "figures.json").read_text().startswith("{")
    yield at.refused("compare", "out", "out", "--to", "compared.json")
    at.works("compare", "out", "out", "--to", "compared.html")
    yield at.refused("report", "out", "--columns", "3")
    at.works("report", "out", "--columns", "3", "--sheet", "sheet.png")
    (at.folder / "out/report.html").mkdir()
    yield warned(lambda: report_after_run(at.folder / "out", None))  # type: ignore[arg-type]
    (at.folder / "out/report.html").rmdir()
    at.works("report", "out")


@scene
def looks_at_folders(at: At) -> Iterator[str]:
    fill(at.folder / "out", ["a"])
    yield at.refused("status", "out", "--interval", "1")
    at.works("status", "out", "--interval", "1", "--watch")


@scene
def estimates(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    fill_folder("earlier", 2, 4, 0)
    with OutputFolder.open(at.folder / "other", {"model": "owner/other"}) as folder:
        publish(folder, 0, ["a"])
    told = at.works("plan", "m.jsonl")
    yield told
    flags = re.search(r"(--like) OUT .*, (--gpu) (\w+)", told).groups()  # type: ignore[union-attr]
    for like in ("none", "other"):
        yield at.refused("plan", "m.jsonl", flags[0], like)
    at.works("plan", "m.jsonl", flags[0], "earlier")
    at.works("plan", "m.jsonl", *flags[1:])
    yield at.refused("plan", "m.jsonl", "--like", "earlier", "--gpu", "h100")
    told = at.refused("plan", "m.jsonl", "--gpu", "h100", "--precision", "fp32")
    yield told
    for precision in re.search(r"with --gpu: (.*)", told)[1].split(", "):  # type: ignore[index]
        at.works("plan", "m.jsonl", "--gpu", "h100", "--precision", precision)


@scene
def folders_that_are_gone_on_with(at: At) -> Iterator[str]:
    def plan(*names: str):
        at.rows(*[{"id": name, "image": "a.png"} for name in names])
        return prepare("m.jsonl", Settings())[0]

    log = cast(RunLog, SimpleNamespace(write=lambda *given, **more: None))
    now = {"model": "tiny", SOURCE_DECODING: decoding_versions()}
    with OutputFolder.open(at.folder / "out", {"model": "tiny"}) as folder:
        publish(folder, 0, ["a", "b"])
        held = folder.committed().where
        told = raised(lambda: rows_to_drop(folder.url, held, plan("a", "c"), drop_removed=False))
        yield told
        (number,) = re.search(r"take these (\d) out of the dataset with `wanbatch run --drop-removed`", told).groups()  # type: ignore[union-attr]
        assert len(rows_to_drop(folder.url, held, plan("a", "c"), drop_removed=True)) == int(number) == 1
        yield raised(lambda: rows_to_drop(folder.url, held, plan("c", "d"), drop_removed=True))
        assert not rows_to_drop(folder.url, held, plan("a", "b", "c"), drop_removed=False)
        told = warned(lambda: warn_of_other_decoding(folder, plan("a", "b"), now, log))
        yield told
        assert "decoded by another version" in told
    with OutputFolder.open(at.folder / "other", now) as folder:
        assert not rows_to_drop(folder.url, folder.committed().where, plan("a", "c"), drop_removed=False)
        publish(folder, 0, ["a", "c"])
        assert warned(lambda: warn_of_other_decoding(folder, plan("a", "c"), now, log)) == ""
