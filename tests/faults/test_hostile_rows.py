"""Manifests and sources of a stranger, given to the whole command: faults 16 to 19.

Each case is looked at closely in tests/manifests; here it must end as promised with a run around it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from job_making import decoded, rows_by_id, workers_of
from PIL import Image

from wanbatch.jobs.cli.main import main

GOOD = {"id": "good", "prompt": "a heart"}


def refused(path: Path, *options: str) -> Result:
    """`wanbatch run` of a bad manifest: exit 2, the file named, no traceback, nothing written or started."""
    before, workers = set(path.parent.iterdir()), workers_of(os.getpid())  # of an earlier test, on their way out
    result = CliRunner().invoke(main, ["run", str(path), "--out", str(path.parent / "out"), *options])
    assert result.exit_code == 2, result.output
    assert path.name in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 10_000
    assert set(path.parent.iterdir()) == before
    assert [process for process in workers_of(os.getpid()) if process not in workers] == []
    return result


# ---- 16: Parquet


def parquet(path: Path) -> bytes:
    table = pa.table({"prompt": [f"picture {n} of many" for n in range(5000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    return path.read_bytes()


def test_a_parquet_manifest_that_is_cut_or_flipped(tmp_path):
    path = tmp_path / "shop.parquet"
    whole = parquet(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x20
    for data in (whole[:-100], whole[: len(whole) // 2], bytes(flipped), b""):
        path.write_bytes(data)
        refused(path)
    path.write_bytes(whole)
    assert CliRunner().invoke(main, ["plan", str(path)]).exit_code == 0


def test_a_parquet_manifest_with_an_extension_type(tmp_path):
    path = tmp_path / "shop.parquet"
    kind = pa.uuid()
    column = pa.ExtensionArray.from_storage(kind, pa.array([b"0123456789abcdef"], kind.storage_type))
    pq.write_table(pa.table({"prompt": ["x"], "key": column}), path)
    assert "extension" in refused(path).stderr


# ---- 17: JSON lines


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"image": "a.png", "creativity": NaN}', ":1: is not valid: NaN"),
        (b'{"image": "a.png", "creativity": 1.0001}', ":1: creativity is 1.0001"),
        (b'{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "x"}', ":2: id 'a' is already at"),
        (b'{"prompt": "x", "price": 5}\n{"prompt": "x", "price": "5"}', ":2: column 'price' is '5'"),
        ('{"prompt": "x"}'.encode("utf-16"), "UTF-8"),
        (b'{"prompt": "x"}\n{"prompt": "a he', ":2: "),
        (b'{"prompt": "x"}\n{"prompt": "' + b"a" * (50 << 20) + b'"}', ":2: "),
    ],
    ids=["NaN", "1.0001", "duplicate id", "type drift", "UTF-16", "cut line", "50 MB line"],
)
def test_lines(tmp_path, data, told):
    path = tmp_path / "shop.jsonl"
    path.write_bytes(data)
    assert told in refused(path).stderr


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "shop.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert CliRunner().invoke(main, ["plan", str(path)]).exit_code == 0


# ---- 18: images


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hostile_images(folder: Path) -> None:
    """The good ones are named after what they must become."""
    plain = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "plain.png").write_bytes(encoded(plain, "PNG"))
    (folder / "turned.png").write_bytes(encoded(plain, "PNG", exif=exif))
    Image.fromarray(np.full((32, 32), 0xFFFF, np.uint16)).save(folder / "sixteen.png")
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(folder / "cmyk.jpg", quality=100)
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.png").write_text("<!doctype html><title>404 Not Found</title>")
    (folder / "cut.png").write_bytes(encoded(plain, "PNG")[:-200])
    (folder / "huge.png").write_bytes(encoded(Image.new("1", (14_200, 14_200)), "PNG"))
    (folder / "script.png").write_bytes(encoded(plain, "EPS"))


def test_images(run_rows, tmp_path):
    """Quarantined, or the right RGB; and no worker takes the memory that a bomb asks for."""
    hostile_images(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    peaks: list[int] = []

    def look() -> None:
        for process in workers_of(os.getpid()):
            try:
                peaks.append(process.memory_info().rss)
            except psutil.Error:
                continue

    rows = [{"id": name, "image": name, "width": 32, "height": 32} for name in names]
    summary = run_rows(rows, hook=look, unit_rows=4)
    good = {"plain.png", "turned.png", "sixteen.png", "cmyk.jpg"}
    assert summary.failures == {"bad_image": len(names) - len(good) - 1, "too_large": 1}
    assert summary.exit_code == 3
    made = {name: decoded(row) for name, row in rows_by_id(tmp_path / "out").items()}
    assert set(made) == good
    assert set(rows_by_id(tmp_path / "out", "failures")) == set(names) - good
    plain = np.asarray(Image.open(tmp_path / "plain.png"))
    assert np.array_equal(made["plain.png"], plain)
    assert np.array_equal(made["turned.png"], np.rot90(plain, -1))
    assert (made["sixteen.png"] == 255).all()
    red = made["cmyk.jpg"].reshape(-1, 3).mean(axis=0)
    assert red[0] > 200
    assert red[1:].max() < 60
    assert max(peaks) < 500 << 20


# ---- 19: where sources may be


@pytest.fixture
def visited():
    """A server on this machine, and the requests that reach it."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, requests
    server.shutdown()
    server.server_close()


def test_sources_that_lead_elsewhere(tmp_path, visited):
    """All are refused by their text, before anything runs; no file is opened and no server asked."""
    port, requests = visited
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(Image.new("RGB", (32, 32)), "PNG"))
    (tmp_path / "shop").mkdir()
    paths = ["../secret.png", str(secret), "a\0.png", f"file://{secret}", "data:image/png;base64,AAAA"]
    paths += [f"http://127.0.0.1:{port}/a.png", "http://169.254.169.254/latest", f"http://2130706433:{port}/a.png"]
    rows: list[dict] = [{"image": path} for path in paths]
    rows += [{"image": {"bytes": None, "path": "../secret.png"}}, {"prompt": "x", "id": "a/../b"}]
    manifest = tmp_path / "shop" / "shop.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened: list[str] = []
    watching = True

    def note(event: str, arguments: tuple) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(note)
    for options in ([], ["--allow-http"]):
        told = refused(manifest, *options).stderr
        for line in range(1, len(rows) + 1):
            if options and rows[line - 1].get("image") == f"http://127.0.0.1:{port}/a.png":
                continue  # by its address, when it is its turn
            assert f"shop.jsonl:{line}: " in told or options, line
    watching = False
    assert any(name.endswith("shop.jsonl") for name in opened)
    assert not any(name.endswith("secret.png") for name in opened)
    assert requests == []


def test_sources_that_lead_elsewhere_when_they_are_opened(run_rows, tmp_path, visited):
    """By a link, or by an address that is only refused once it is looked up; the rows beside them are made."""
    port, requests = visited
    (tmp_path.parent / "secret.png").write_bytes(encoded(Image.new("RGB", (32, 32)), "PNG"))
    (tmp_path / "link.png").symlink_to("../secret.png")
    rows = [{"id": "link", "image": "link.png"}, {"id": "near", "image": f"http://localhost:{port}/a.png"}]
    summary = run_rows([GOOD, *({**row, "width": 32, "height": 32} for row in rows)], allow_http=True)
    assert (summary.made, summary.quarantined) == (1, 2)
    failures = rows_by_id(tmp_path / "out", "failures")
    assert set(failures) == {"link", "near"}
    assert "not public (loopback)" in failures["near"]["message"]
    assert requests == []
