"""The lab's certificate authority: one CA, one server certificate for all of its APIs.

Keys are P-256 (a millisecond to make), valid for the life of a lab. The CA's private key
never leaves the lab's process. Real Kubernetes' programs know each other by client certificates
of the same CA: common name is the user, organizations are its groups.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALIDITY: Final = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """PEM texts: the CA to trust, the server's certificate and its key."""

    ca: bytes
    certificate: bytes
    key: bytes

    def context(self, directory: Path) -> ssl.SSLContext:
        """A server's TLS context. The key passes through a file that is gone again at once:
        Python's ``ssl`` reads keys from files alone."""
        pem = directory / "server.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(self.key + self.certificate)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
        finally:
            pem.unlink()
        return context


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """PEM texts: a client's certificate and its key."""

    certificate: bytes
    key: bytes


class Authority:
    """A fresh CA, whose key lives in this object alone."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("static egress gateway lab CA")
        public = self._key.public_key()
        certificate = (
            _builder(self._name, self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca: bytes = certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, *, addresses: list[str], names: list[str]) -> ServerIdentity:
        """A server certificate for ``addresses`` (IP) and ``names`` (DNS)."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        certificate, key = self._signed(
            _name("lab"), ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(alternatives)
        )
        return ServerIdentity(ca=self.ca, certificate=certificate, key=key)

    def client(self, user: str, *groups: str) -> ClientIdentity:
        """A client certificate, as kube-apiserver reads it: common name and organizations."""
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
        common = x509.NameAttribute(NameOID.COMMON_NAME, user)
        certificate, key = self._signed(
            x509.Name([*organizations, common]), ExtendedKeyUsageOID.CLIENT_AUTH
        )
        return ClientIdentity(certificate, key)

    def _signed(
        self, subject: x509.Name, purpose: x509.ObjectIdentifier, *more: x509.ExtensionType
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(subject, self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)


def issue(*, addresses: list[str], names: list[str]) -> ServerIdentity:
    """A fresh CA and a server certificate for ``addresses`` (IP) and ``names`` (DNS)."""
    return Authority().server(addresses=addresses, names=names)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def signed_claims(token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The claims of a token that ``key`` signed (ES256 over a compact JWT, RFC 7518 section 3.4).
    Raises ``PermissionError``."""
    try:
        signed, _, signature = token.rpartition(".")
        raw = _decode(signature)
        pair = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        key.verify(encode_dss_signature(*pair), signed.encode(), ec.ECDSA(hashes.SHA256()))
        claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise PermissionError("the token's signature is not the cluster's") from error
    return claims


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _VALIDITY)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
