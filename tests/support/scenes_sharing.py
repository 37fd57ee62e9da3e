"""Remedies for what is passed on: exports, pushes to the Hub, marks of origin and signatures."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from hub_server import use_hub
from hub_writing import TOKEN, writable_hub
from huggingface_hub import constants
from picture_folders import fill
from remedy_scenes import At, raised, scene
from report_folders import write_checks
from signing_certificates import write_certificate

from wanbatch.manifests.dataset.content_credentials import Signer, SigningFiles
from wanbatch.manifests.sharing import export
from wanbatch.manifests.sharing import push as pushing
from wanbatch.manifests.sharing.export import RECORD
from wanbatch.manifests.sharing.facts import facts_of
from wanbatch.manifests.sharing.hub_card import Licences
from wanbatch.manifests.sharing.hub_errors import hub_errors
from wanbatch.manifests.sharing.pictures import contents_of, groups
from wanbatch.manifests.sharing.push import PushOptions, push
from wanbatch.manifests.storage import fsspec_io

CC = PushOptions(Licences("cc-by-4.0"))
TARGET = "hf://owner/name"


def _no_room(*paths: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[-1]))


@scene
def folders_of_exports(at: At) -> Iterator[str]:
    fill(at.folder / "out", ["a", "b"])
    fill(at.folder / "half", ["a"], rows=2)
    at.write("full/file", "x")
    at.write(f"odd/{RECORD}", "{")
    form = ("--format", "coco")
    for words in (("full", "--to", "to"), ("half", "--to", "to"), ("out", "--to", "s3://shop/to")):
        yield at.refused("export", *words, *form)
    for to in ("full", "odd"):
        yield at.refused("export", "out", "--to", to, *form)
    yield at.refused("export", "out", "--to", "a.png/to", *form)
    with at.monkeypatch.context() as full:
        full.setattr(export.os, "rename", _no_room)
        yield at.refused("export", "out", "--to", "to", *form, code=75)
    with FileLock(at.folder / ".to.unfinished.lock"):
        yield at.refused("export", "out", "--to", "to", *form, code=4)
    at.works("export", "out", "--to", "to", *form)
    at.works("export", "half", "--to", "partial", *form, "--partial")
    fill(at.folder / "half", ["b"], rows=2)
    at.works("export", "half", "--to", "whole", *form)
    yield at.refused("export", "out", "--to", "to", "--format", "imagefolder")
    shutil.rmtree(at.folder / "to")
    at.works("export", "out", "--to", "to", "--format", "imagefolder")
    next((at.folder / "to/train").glob("*.png")).unlink()
    yield at.refused("export", "out", "--to", "to", "--format", "imagefolder", code=75)
    shutil.rmtree(at.folder / "to")
    at.works("export", "out", "--to", "to", "--format", "imagefolder")


@scene
def parts_that_cannot_be_read_for_a_moment(at: At) -> Iterator[str]:
    contents = contents_of(fill(at.folder / "out", ["a"]), partial=False)
    broken = OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(*given: object) -> Iterator:
        raise broken

    with at.monkeypatch.context() as patch:
        patch.setattr("wanbatch.manifests.sharing.pictures.row_groups", fail)
        patch.setattr("wanbatch.manifests.sharing.facts.row_groups", fail)
        yield raised(lambda: list(groups(contents)))
        yield raised(lambda: facts_of(contents))
    assert len(list(groups(contents))) == 1
    facts_of(contents)
    at.works("repair", "out")
    write_checks(at.folder / "out", ["a"])
    next((at.folder / "out/checks").glob("*.parquet")).write_bytes(b"damaged")
    yield raised(lambda: facts_of(contents))
    (at.folder / "out/checks").rename(at.folder / "checks")
    facts_of(contents)


@scene
def what_is_pushed(at: At) -> Iterator[str]:
    fill(at.folder / "out", ["a", "b"], with_sources=True)
    fill(at.folder / "plain", ["a", "b"])
    dry = ("--dry-run", "--license", "mit")
    yield at.refused("push", "out", "owner/name", *dry)
    yield at.refused("push", "out", TARGET, *dry)
    yield at.refused("push", "plain", TARGET, "--dry-run", "--license", "My Own")
    at.works("push", "plain", TARGET, *dry)
    at.works("push", "out", TARGET, *dry, "--source-license", "mit")
    real = pushing.write_shards

    def full(*given: object) -> Iterator:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def none(*given: object) -> Iterator:
        return iter(())

    for writer in (full, none):
        at.monkeypatch.setattr(pushing, "write_shards", writer)
        yield at.refused("push", "plain", TARGET, *dry, code=75)
    at.monkeypatch.setattr(pushing, "write_shards", real)
    (at.folder / "large").mkdir()
    at.monkeypatch.setenv("TMPDIR", str(at.folder / "large"))
    at.works("push", "plain", TARGET, *dry)


@scene
def hubs_that_refuse(at: At) -> Iterator[str]:
    """A server that speaks the Hub's API stands for it."""
    out, small = fill(at.folder / "out", ["a", "b"]), fill(at.folder / "small", ["a"])
    patch = at.monkeypatch
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield raised(lambda: push(out, TARGET, CC))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    with writable_hub("owner/name", at.folder / "hub") as server:
        use_hub(server, patch)
        patch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
        patch.setenv("HF_TOKEN", "hf_WrongToken")
        yield raised(lambda: push(out, TARGET, CC))
        patch.setenv("HF_TOKEN", TOKEN)
        for status in (412, 500):
            server.refuse = status
            yield _said(status) if status == 500 else raised(lambda: push(out, TARGET, CC))
        server.refuse = None
        assert push(out, TARGET, CC).commit is not None
        yield raised(lambda: push(small, TARGET, CC))
        push(small, TARGET, PushOptions(Licences("cc-by-4.0"), replace=True))
    with writable_hub("owner/other", at.folder / "other-hub") as server:
        use_hub(server, patch)
        patch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
        server.create(private=True)
        server.add_commit({"data/train-00000.parquet": b"theirs"}, set(), "theirs")
        yield raised(lambda: push(out, "hf://owner/other", CC))
    with writable_hub("owner/another", at.folder / "another-hub") as server:
        use_hub(server, patch)
        patch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
        push(out, "hf://owner/another", CC)
    fsspec_io.forget_file_systems()

    def unreachable() -> None:
        with hub_errors(TARGET):
            raise ConnectionError("refused")

    yield raised(unreachable)


def _said(status: int) -> str:
    """What is said of an answer that the Hub's client would ask for again, for minutes."""
    from huggingface_hub.errors import HfHubHTTPError

    class Answer:
        status_code, headers, request = status, {}, None

    def fail() -> None:
        with hub_errors(TARGET):
            raise HfHubHTTPError("fails", response=Answer())  # type: ignore[arg-type]

    return raised(fail)


@scene
def marks_of_files(at: At) -> Iterator[str]:
    fill(at.folder / "out", ["a"])
    at.write("text.png", "no picture")
    at.write("large.png", b"\0" * (1 << 10))
    yield at.refused("origin", "none.png")
    yield at.refused("origin", "text.png")
    with at.monkeypatch.context() as patch:
        patch.setattr("wanbatch.manifests.dataset.mark_reading.MAX_BYTES", 100)
        yield at.refused("origin", "large.png")
    with at.monkeypatch.context() as patch:
        patch.setattr("wanbatch.manifests.dataset.mark_reading.MAX_PIXELS", 100)
        yield at.refused("origin", "a.png")
    (at.folder / "none").mkdir()
    yield at.refused("origin", "a.png", "--in", "none")
    at.works("origin", "a.png", "--in", "out")


@scene
def files_to_sign_with(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    certificate, key = map(str, write_certificate(at.folder / "mine"))
    _, other = map(str, write_certificate(at.folder / "other"))
    good = ("--c2pa-cert", certificate, "--c2pa-key", key)
    yield at.refused("plan", "m.jsonl", *good[:2])
    yield at.refused("plan", "m.jsonl", *good[2:])
    yield at.refused("plan", "m.jsonl", "--c2pa-cert", certificate, "--c2pa-key", "none.pem")
    at.works("plan", "m.jsonl", *good)
    yield raised(lambda: Signer(SigningFiles(certificate, other)))
    der, text = str(at.folder / "key.der"), str(at.write("key.txt", "abc"))
    shutil.copy(key, "key.pem")
    at.shell("openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der")
    for wrong in (der, text):
        yield raised(lambda wrong=wrong: Signer(SigningFiles(certificate, wrong)))
    at.shell("openssl pkcs8 -nocrypt -inform DER -in key.der -out converted.pem")
    for right in (key, str(Path("converted.pem").absolute())):
        Signer(SigningFiles(certificate, right))
