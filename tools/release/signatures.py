"""Checksums, signatures and provenance of a release, and whether they hold.

One ECDSA key (P-256) signs ``SHA256SUMS`` and a statement of where the files come from (in-toto v1,
SLSA provenance v1, in a DSSE envelope). Signatures are deterministic (RFC 6979), so that a release
made twice is the same to the last byte. They have the form of ``cosign sign-blob --key``: openssl
verifies the first offline, with the public key alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
PROVENANCE = "provenance.intoto.jsonl"
OWN = (SUMS, SIGNATURE, PROVENANCE)
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"


class NotVerified(Exception):
    """A release that is not what was signed; the text names the file."""


class _Signed(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    """A DSSE envelope (https://github.com/secure-systems-lab/dsse)."""

    payload_type: str
    payload: str
    signatures: list[_Signed]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> list[Path]:
    """What a release is made of, but for what speaks of it. Raises ``NotVerified`` for what is no
    file: a folder or a link may lead to anything."""
    found = sorted(path for path in folder.iterdir() if path.name not in OWN)
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise NotVerified(f"{path.name} is of no release: it is no file")
    return found


def sums(paths: Iterable[Path]) -> str:
    """As ``sha256sum`` writes it."""
    return "".join(f"{digest(path)}  {path.name}\n" for path in paths)


def statement(paths: Iterable[Path], *, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What was made, and of what (https://slsa.dev/spec/v1.0/provenance)."""
    subjects = [{"name": path.name, "digest": {"sha256": digest(path)}} for path in paths]
    return {
        "_type": _STATEMENT,
        "subject": subjects,
        "predicateType": _PREDICATE,
        "predicate": dict(origin),
    }


def key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises ``ValueError`` for anything but a key for ECDSA with P-256, without a password."""
    try:
        found = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ValueError("the key has a password; give one without") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name != "secp256r1":
        raise ValueError(
            "not a P-256 key; make one: openssl ecparam -genkey -noout -name prime256v1"
        )
    return found


def public(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Raises ``ValueError``."""
    found = serialization.load_pem_public_key(pem)
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise ValueError("not an ECDSA public key")
    return found


def identity(private: ec.EllipticCurvePrivateKey) -> str:
    """The releaser as a URI: the name of his public key by hash (RFC 6920)."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = private.public_key().public_bytes(serialization.Encoding.DER, form)
    named = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    return f"ni:///sha-256;{named}"


def sign(
    folder: Path, private: ec.EllipticCurvePrivateKey | None, origin: Mapping[str, Any]
) -> None:
    """Writes ``SHA256SUMS`` and, with a key, its signature and the provenance of all files."""
    for name in OWN:
        (folder / name).unlink(missing_ok=True)
    paths = files(folder)
    text = sums(paths).encode()
    (folder / SUMS).write_bytes(text)
    if private is None:
        return
    (folder / SIGNATURE).write_text(_signed(private, text) + "\n")
    payload = json.dumps(statement(paths, origin=origin), sort_keys=True).encode()
    envelope = {
        "payloadType": _PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": _signed(private, _encoded(payload))}],
    }
    (folder / PROVENANCE).write_text(json.dumps(envelope) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a folder holds, as its releaser signed it."""

    files: int
    version: str
    commit: str


def verify(folder: Path, trusted: ec.EllipticCurvePublicKey) -> Verified:
    """What was released: all files of the folder are. Raises ``NotVerified``.

    An older release is as well signed as the newest: whoever asks must look at the version.
    """
    text = _read(folder / SUMS)
    _hold(trusted, _read(folder / SIGNATURE).decode(errors="replace"), text, SUMS)
    listed = dict(line.split("  ", 1)[::-1] for line in text.decode().splitlines())
    present = {path.name for path in files(folder)}
    for name in sorted(listed.keys() | present):
        if name not in present:
            raise NotVerified(f"{name} is missing")
        if name not in listed:
            raise NotVerified(f"{name} is of no release: {SUMS} does not name it")
        if digest(folder / name) != listed[name]:
            raise NotVerified(f"{name} is not what was released: its checksum differs")
    subjects, found = _stated(folder, trusted)
    if subjects != listed:
        raise NotVerified(f"{PROVENANCE} speaks of other files than {SUMS}")
    return found


def _stated(folder: Path, trusted: ec.EllipticCurvePublicKey) -> tuple[dict[str, str], Verified]:
    """Checksums by name, and of what the files were made. What a statement says is looked at after
    its signature."""
    try:
        envelope = msgspec.json.decode(_read(folder / PROVENANCE), type=_Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        (signature,) = envelope.signatures
        _hold(trusted, signature.sig, _encoded(payload), PROVENANCE)
        if envelope.payload_type != _PAYLOAD:
            raise NotVerified(f"{PROVENANCE} is no in-toto statement")
        said = json.loads(payload)
        built = said["predicate"]["buildDefinition"]
        (commit,) = (
            one["digest"]["gitCommit"]
            for one in built["resolvedDependencies"]
            if one["name"] == "source"
        )
        subjects = {one["name"]: one["digest"]["sha256"] for one in said["subject"]}
        version = built["externalParameters"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotVerified(f"{PROVENANCE} cannot be read: {error}") from error
    return subjects, Verified(files=len(subjects), version=version, commit=commit)


def _encoded(payload: bytes) -> bytes:
    """What is signed of an envelope (https://github.com/secure-systems-lab/dsse)."""
    kind = _PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _signed(private: ec.EllipticCurvePrivateKey, data: bytes) -> str:
    method = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return base64.b64encode(private.sign(data, method)).decode()


def _hold(trusted: ec.EllipticCurvePublicKey, signature: str, data: bytes, name: str) -> None:
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
        trusted.verify(raw, data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise NotVerified(f"{name} is not signed with this key") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotVerified(f"{path.name} is missing") from error
