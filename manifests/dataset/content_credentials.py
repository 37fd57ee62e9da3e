"""Content Credentials (C2PA): signed statements inside a picture's file of how it was made.

They are made by c2pa-python, which the extra `c2pa` brings. The private key is read by `Signer` alone, and stays in
it.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from PIL import Image

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.digital_source import GENERATED, VOCABULARY

MIME_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

_INSTALL = "pip install 'wanbatch[c2pa]'"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class SigningFiles:
    """What pictures are signed with.

    Attributes:
        certificate: absolute path of a PEM file: the certificate, then those that vouch for it.
        key: absolute path of the PEM file of its private key.
    """

    certificate: str
    key: str

    def require_usable(self) -> None:
        """Check, without reading the key, that signing can be tried.

        Raises:
            UserError: A file or c2pa-python is not there.
        """
        if find_spec("c2pa") is None:
            raise UserError(f"setting c2pa_cert: signing needs c2pa-python: {_INSTALL}")
        for name, path in (("c2pa_cert", self.certificate), ("c2pa_key", self.key)):
            try:
                os.stat(path)
            except OSError as error:
                raise UserError(f"setting {name}: {path}: {error.strerror}: give a PEM file that is there") from error


class Signer:
    """Signs pictures; may be used by several threads at once."""

    def __init__(self, files: SigningFiles):
        """Read certificate and key, and sign a small picture with them, so that what is wrong is found now.

        Raises:
            UserError: They cannot be used.
        """
        self._certificate = _read("c2pa_cert", files.certificate)
        self._key = _read("c2pa_key", files.key)
        try:
            self._algorithm = _algorithm(self._certificate)
            self._sign(_small_picture(), "png", _manifest(OriginMark(GENERATED, "wanbatch")))
        except Exception as error:  # noqa: BLE001  what OpenSSL and c2pa raise; neither names the key
            raise UserError(
                f"{files.certificate}: pictures cannot be signed with it and the key {files.key} ({_reason(error)}): "
                "give a certificate for signing C2PA claims, then those that vouch for it, and the key of the first"
            ) from None

    def __repr__(self) -> str:
        return f"Signer({self._algorithm!r})"

    def sign(self, image: bytes, format: str, mark: OriginMark) -> bytes:
        """A picture's file with a signed statement of its mark; its pixels stay as they are.

        Args:
            image: the file.
            format: `png`, `webp` or `jpeg`.
            mark: what is stated.

        Raises:
            MachineryError: It cannot be signed, though another one could.
        """
        try:
            return self._sign(image, format, _manifest(mark))
        except Exception as error:  # noqa: BLE001  whatever c2pa raises
            raise MachineryError(
                f"a picture cannot be signed any more ({_reason(error)}): is the certificate over?"
            ) from None

    def _sign(self, image: bytes, format: str, manifest: dict[str, Any]) -> bytes:
        import c2pa

        target = io.BytesIO()
        info = c2pa.C2paSignerInfo(self._algorithm, self._certificate.encode(), self._key.encode(), None)
        with c2pa.Signer.from_info(info) as signer, _context() as context, c2pa.Builder(manifest, context) as builder:
            builder.sign(signer, MIME_TYPES[format], io.BytesIO(image), target)
        return target.getvalue()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the signed statement in a file says.

    Attributes:
        state: `Valid`: the file is as it was signed; `Trusted`: and its signer is on a trust list; else `Invalid`.
        signer: who signed it.
        tool: what made the statement.
        term: how the picture came to be, of `digital_source`.
        problems: codes of what is wrong with it.
    """

    state: str
    signer: str | None
    tool: str | None
    term: str | None
    problems: tuple[str, ...] = field(default=())


def read_credentials(data: bytes, format: str) -> Credentials | None:
    """The Content Credentials of a picture's file; None: it has none.

    Args:
        data: the file.
        format: `png`, `webp` or `jpeg`.

    Raises:
        UserError: c2pa-python is not installed.
    """
    if b"c2pa" not in data:
        return None
    try:
        import c2pa
    except ImportError as error:
        raise UserError(f"the file has Content Credentials, and c2pa-python reads them: {_INSTALL}") from error
    try:
        with c2pa.Reader(MIME_TYPES[format], io.BytesIO(data)) as reader:
            found, state = json.loads(reader.json()), reader.get_validation_state()
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "ManifestNotFound" in str(error):
            return None
        return Credentials("Invalid", None, None, None, (_reason(error),))
    active = found["manifests"][found["active_manifest"]]
    actions = [
        action
        for assertion in active.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    terms = [
        str(action["digitalSourceType"]).removeprefix(VOCABULARY)
        for action in actions
        if "digitalSourceType" in action
    ]
    tools = active.get("claim_generator_info") or [{}]
    signature = active.get("signature_info") or {}
    return Credentials(
        state=str(state),
        signer=signature.get("common_name") or signature.get("issuer"),
        tool=" ".join(str(tools[0][name]) for name in ("name", "version") if name in tools[0]) or None,
        term=terms[0] if terms else None,
        problems=tuple(status["code"] for status in found.get("validation_status", ())),
    )


def _context() -> Any:
    """What c2pa adds of its own accord is left out: thumbnails, which are larger than the picture."""
    import c2pa

    return c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})


def _manifest(mark: OriginMark) -> dict[str, Any]:
    name, _, version = mark.tool.partition(" ")
    action = {"action": "c2pa.created", "digitalSourceType": VOCABULARY + mark.term}
    return {
        "claim_generator_info": [{"name": name, **({"version": version} if version else {})}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


def _read(name: str, path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM file"
        raise UserError(f"setting {name}: {path}: {reason}: give a PEM file that every worker can read") from None
    if "-----BEGIN " not in text:
        raise UserError(f"setting {name}: {path}: is no PEM file: convert it with openssl")
    return text


def _algorithm(certificate: str) -> str:
    """The signing algorithm that goes with the key of a certificate, as C2PA calls it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPublicKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    raise ValueError("C2PA has no signatures with keys of its kind")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _small_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    return buffer.getvalue()
