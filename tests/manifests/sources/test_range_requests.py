"""The size of a web source: by the first bytes of it, and by none where the server says that it is still the same."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from manifest_making import encoded
from PIL import Image, PngImagePlugin
from web_server import LOCAL, QUICK

from wanbatch.errors import RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.loader import HEADER_BYTES, SourceLoader
from wanbatch.manifests.sources.size_cache import SourceSize


def noise(kind: str = "PNG", **options) -> bytes:
    """An image of 400 x 300 pixels and more than 300 KB."""
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def serve(server, data: bytes, ranges: bool = True, failures: tuple[int, ...] = (), **headers) -> str:
    """The address of a file, whose server keeps the number of bytes that it has sent in `server.sent`."""
    server.sent, left = [], list(failures)

    def answer(handler) -> None:
        if left:
            handler.give(left.pop(0))
            return
        conditions = (("If-None-Match", "ETag"), ("If-Modified-Since", "Last_Modified"))
        if any(
            handler.headers[asked] and handler.headers[asked] == headers.get(given) for asked, given in conditions
        ):
            handler.give(304, Content_Length=None, **headers)
            return
        asked = re.fullmatch(r"bytes=(0?)-(\d+)", handler.headers["Range"] or "") if ranges else None
        body = data if asked is None else data[: int(asked[2]) + 1] if asked[1] else data[-int(asked[2]) :]
        server.sent.append(len(body))
        if asked is None:
            handler.give(200, body, **headers)
        elif data:
            begin = 0 if asked[1] else len(data) - len(body)
            handler.give(206, body, Content_Range=f"bytes {begin}-{begin + len(body) - 1}/{len(data)}", **headers)
        else:
            handler.give(416, b"", Content_Range="bytes */0", **headers)

    server.answers["/x"] = answer
    return f"{server.url}/x"


@pytest.fixture
def loader(tmp_path):
    with SourceLoader(tmp_path, allow_http=True, fetcher=Fetcher(64 << 20, LOCAL, retries=QUICK)) as loader:
        yield loader


def test_no_more_than_the_beginning_is_sent(server, loader):
    url = serve(server, noise("JPEG", quality=99), ETag='"1a"')
    assert loader.measure(Source(url)) == SourceSize(400, 300, 'ETag: "1a"')
    assert server.sent == [HEADER_BYTES]
    square = io.BytesIO()
    Image.open(io.BytesIO(noise())).resize((400, 400), Image.Resampling.NEAREST).save(square, "PNG")
    assert loader.size(Source(serve(server, square.getvalue()))) == (400, 400)
    assert server.sent == [HEADER_BYTES], "it has the same shape, however it is turned"


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_png_its_end_is_sent_too(server, loader, turned):
    """It may say how to turn it behind its pixels."""
    data = noise()
    late = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0") if turned else b""
    url = serve(server, data[:-12] + late + data[-12:], ETag='"1a"')
    assert loader.measure(Source(url)) == SourceSize(*((300, 400) if turned else (400, 300)), 'ETag: "1a"')
    assert server.sent == [HEADER_BYTES, HEADER_BYTES]


def test_a_png_whose_pixels_do_not_end_in_its_last_bytes_is_read_whole(server, loader):
    data = noise()
    late = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    data = data[:-12] + late + chunk(b"tEXt", b"note\0" + b"x" * 100_000) + data[-12:]
    assert loader.size(Source(serve(server, data))) == (300, 400)
    assert server.sent == [HEADER_BYTES, HEADER_BYTES, len(data)]


def test_a_server_without_ranges_is_not_listened_to_the_end(server, loader):
    data = noise("JPEG", quality=99) * 100
    url = serve(server, data, ranges=False)
    assert loader.measure(Source(url)) == SourceSize(400, 300, None)
    assert len(server.seen) == 1, "one request, of which no more than the beginning is read"


def test_a_header_that_lies_behind_the_beginning_is_found_in_the_whole(server, loader):
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 100_000)
    data = noise(pnginfo=text)
    url = serve(server, data)
    assert loader.size(Source(url)) == (400, 300)
    assert server.sent == [HEADER_BYTES, len(data)]


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 99}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 99})]
)
def test_every_format_gives_its_size(server, loader, kind, options):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert loader.size(Source(serve(server, noise(kind, exif=exif, **options)))) == (300, 400)


@pytest.mark.parametrize("headers", [{"ETag": 'W/"x"'}, {"Last_Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_what_is_still_the_same_is_not_sent_again(server, loader, headers):
    source = Source(serve(server, noise("JPEG", quality=99), **headers))
    known = loader.measure(source)
    assert known.version is not None
    assert loader.measure(source, known) is known
    assert server.sent == [HEADER_BYTES]
    changed = Source(serve(server, encoded(20, 10), ETag='"new"'))
    assert loader.measure(changed, known) == SourceSize(20, 10, 'ETag: "new"')


def test_a_busy_server_is_asked_again_for_a_range_too(server, loader):
    """Without that, one 503 while sizes are looked up would make a row's size the default, and its picture wrong."""
    assert loader.size(Source(serve(server, noise("JPEG", quality=99), failures=(503, 429)))) == (400, 300)
    assert loader.retried == 2
    assert [headers.get("Range") for _, _, headers in server.seen] == [f"bytes=0-{HEADER_BYTES - 1}"] * 3


@pytest.mark.parametrize(("data", "message"), [(b"", "is empty"), (b"<html>" * 50_000, "is an HTML page")])
def test_what_is_no_image(server, loader, data, message):
    with pytest.raises(RowError, match=message) as caught:
        loader.size(Source(serve(server, data)))
    assert caught.value.kind == "bad_image"


def test_a_file_that_is_too_large_is_refused_by_its_header(server, tmp_path):
    url = serve(server, noise())
    loader = SourceLoader(tmp_path, allow_http=True, fetcher=Fetcher(100_000, LOCAL))
    with pytest.raises(RowError, match="at most 100000 are read") as caught:
        loader.size(Source(url))
    assert caught.value.kind == "too_large"


def test_a_range_that_is_not_the_beginning_is_not_believed(server, tmp_path):
    data = noise()
    server.answers["/x"] = lambda h: h.give(206, data[10:99], Content_Range=f"bytes 10-98/{len(data)}")
    loader = SourceLoader(tmp_path, allow_http=True, fetcher=Fetcher(1 << 20, LOCAL, retries=QUICK.new(total=1)))
    with pytest.raises(RowError, match="Content-Range: 10-98/") as caught:
        loader.size(Source(f"{server.url}/x"))
    assert caught.value.kind == "unreachable"
