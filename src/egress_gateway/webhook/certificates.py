"""The webhook's certificates: made by itself, renewed in time, never out of step. No I/O.

A Secret holds one or two *generations*, each a certificate, its key and the authority that signed
it, whose own key is thrown away. API servers trust all generations that are there. A new one is
served only after it has been trusted for a while, and an old one goes only after the new one has
been served for a while, so that no order of events makes an API server meet a stranger.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SETTLE: Final = 600.0
"""Seconds in which every API server and every replica of ours has heard of a change."""
_BACKDATE: Final = 300.0
"""Seconds that clocks may differ."""
_NOT_WHOLE: Final = (
    KeyError,
    TypeError,
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""binascii.Error is a ValueError."""
_PARTS: Final = ("crt", "key", "ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """``made`` and ``ends`` in seconds since the epoch, ``names`` the hosts (DNS names or IP
    addresses) that it is good for; the rest is PEM."""

    made: float
    ends: float
    names: tuple[str, ...]
    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


def plan(
    generations: Iterable[Generation], *, names: Iterable[str], now: float, validity: float
) -> tuple[list[Generation], bool]:
    """The generations to keep, newest last, and whether a new one is due."""
    of_use = [g for g in generations if g.ends > now and set(names) <= set(g.names)]
    kept = sorted(of_use, key=lambda g: g.made)
    if len(kept) > 1 and kept[-1].made + 2 * SETTLE <= now:
        kept = kept[-1:]
    # The ends, not the validity asked for now: a shorter one may have been asked for before.
    due = not kept or min(kept[-1].ends, kept[-1].made + validity) - validity / 3 <= now
    return kept, due


def serving(generations: Iterable[Generation], *, now: float) -> Generation | None:
    """The newest that is trusted long enough, else the oldest (there may be no other)."""
    ordered = sorted(generations, key=lambda g: g.made)
    settled = [g for g in ordered if g.made + SETTLE <= now and g.ends > now]
    if settled:
        return settled[-1]
    return ordered[0] if ordered else None


def trust(generations: Iterable[Generation]) -> bytes:
    """All authorities, in PEM."""
    return b"".join(g.authority for g in sorted(generations, key=lambda g: g.made))


def encode(generation: Generation) -> dict[str, str]:
    """The generation as keys of a Secret."""
    stem = str(round(generation.made * 1000))
    parts = (generation.certificate, generation.key, generation.authority)
    return {
        f"{stem}.{part}": base64.b64encode(content).decode()
        for part, content in zip(_PARTS, parts, strict=True)
    }


def decode(secret: Mapping[str, str]) -> list[Generation]:
    """The generations of a Secret's ``data``. Incomplete ones are left out."""
    found = []
    for stem in {key.partition(".")[0] for key in secret}:
        try:
            crt, key, ca = (
                base64.b64decode(secret[f"{stem}.{part}"], validate=True) for part in _PARTS
            )
            parsed = x509.load_pem_x509_certificate(crt)
            serialization.load_pem_private_key(key, None)
            x509.load_pem_x509_certificate(ca)
            extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            made, ends = int(stem) / 1000, parsed.not_valid_after_utc.timestamp()
        except _NOT_WHOLE:
            continue
        hosts = tuple(str(name.value) for name in extension.value)
        found.append(
            Generation(made=made, ends=ends, names=hosts, certificate=crt, key=key, authority=ca)
        )
    return found


def make(names: list[str], *, now: float, validity: float) -> Generation:
    """A new generation for the hosts ``names``, ``validity`` in seconds."""
    begins = datetime.datetime.fromtimestamp(now - _BACKDATE, datetime.UTC)
    ends = datetime.datetime.fromtimestamp(int(now + validity), datetime.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = _name(f"{names[0]} authority {round(now)}")
    authority = (
        _builder(authority_name, authority_name, authority_key, begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    alternatives = x509.SubjectAlternativeName([_host(name) for name in names])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(_name(names[0]), authority_name, key, begins, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Generation(
        made=round(now, 3),
        ends=ends.timestamp(),
        names=tuple(names),
        certificate=certificate.public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        authority=authority.public_bytes(pem),
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    # X.520 allows 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
