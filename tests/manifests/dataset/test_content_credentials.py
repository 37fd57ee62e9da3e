"""Signed statements of origin (C2PA): checked by the reader of c2pa-python, with a certificate made for the test."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from signing_certificates import write_certificate

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.content_credentials import Signer, SigningFiles, read_credentials
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.mark_reading import read_marks
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.digital_source import COMPOSITE, VOCABULARY

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed (the extra c2pa)")

MARK = OriginMark(COMPOSITE, "wanbatch 0.1.0")
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SigningFiles:
    return SigningFiles(*map(str, write_certificate(tmp_path_factory.mktemp("certificate"))))


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_a_signed_picture_is_valid_by_the_reader_and_has_the_same_pixels(files, name, tmp_path):
    plain = ImageFormat(name).encode(PIXELS, MARK.metadata("00"))
    signed = Signer(files).sign(plain, name, MARK)
    before, after = (np.asarray(Image.open(io.BytesIO(data))) for data in (plain, signed))
    assert np.array_equal(before, after)
    assert len(signed) - len(plain) < 8_000
    with c2pa.Reader(f"image/{name}", io.BytesIO(signed)) as reader:
        assert reader.get_validation_state() == "Valid"
        manifest = json.loads(reader.json())
    (found,) = manifest["manifests"].values()
    assert found["signature_info"]["common_name"] == "Test Signer"
    (actions,) = (one["data"]["actions"] for one in found["assertions"] if one["label"].startswith("c2pa.actions"))
    assert actions == [{"action": "c2pa.created", "digitalSourceType": VOCABULARY + COMPOSITE}]
    (tmp_path / "a").write_bytes(signed)
    marks = read_marks(tmp_path / "a")
    assert (marks.term, marks.credentials.term, marks.credentials.state) == (COMPOSITE, COMPOSITE, "Valid")
    assert marks.credentials.problems == ("signingCredential.untrusted",)


def test_a_changed_picture_is_invalid(files):
    signed = bytearray(Signer(files).sign(ImageFormat("jpeg").encode(PIXELS, MARK.metadata("00")), "jpeg", MARK))
    signed[-20] ^= 1
    found = read_credentials(bytes(signed), "jpeg")
    assert found.state == "Invalid"
    assert "assertion.dataHash.mismatch" in found.problems


def test_a_picture_without_a_statement_has_none():
    assert read_credentials(ImageFormat().encode(PIXELS), "png") is None
    assert read_credentials(ImageFormat().encode(PIXELS) + b"c2pa", "png") is None


def test_a_key_of_another_certificate_is_refused_and_not_shown(files, tmp_path):
    _, other = write_certificate(tmp_path)
    with pytest.raises(UserError, match="cannot be signed with it and the key") as refused:
        Signer(SigningFiles(files.certificate, str(other)))
    secret = other.read_text().splitlines()[1]
    assert secret not in str(refused.value)
    assert secret not in repr(Signer(files))
    assert refused.value.__cause__ is None
    assert secret.encode() not in pickle.dumps(files)


def test_a_certificate_that_is_over_is_refused(tmp_path):
    certificate, key = write_certificate(tmp_path, valid_days=-1)
    with pytest.raises(UserError, match="cannot be signed with it"):
        Signer(SigningFiles(str(certificate), str(key)))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x30\x82\x01", "is no PEM file"), (b"abc", "is no PEM file"), (None, "No such file")],
)
def test_files_that_are_no_pem_files_are_refused(files, tmp_path, content, message):
    path = tmp_path / "key.der"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"c2pa_key: .*{message}"):
        Signer(SigningFiles(files.certificate, str(path)))


def test_what_is_missing_is_said_without_reading_the_key(files, tmp_path, monkeypatch):
    unreadable = tmp_path / "key.pem"
    unreadable.touch(mode=0)
    SigningFiles(files.certificate, str(unreadable)).require_usable()
    with pytest.raises(UserError, match=r"setting c2pa_cert: .*none\.pem: No such file"):
        SigningFiles(str(tmp_path / "none.pem"), files.key).require_usable()
    monkeypatch.setattr("wanbatch.manifests.dataset.content_credentials.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'wanbatch\[c2pa\]'"):
        SigningFiles(files.certificate, files.key).require_usable()
    assert Path(files.key).exists()
