"""WireGuard keys in their text form (44 characters of base64), as ``wg genkey`` writes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves as text. The private half never shows up in a ``repr``."""

    private: str = field(repr=False)
    public: str


def generate() -> KeyPair:
    """A fresh X25519 key pair."""
    private = X25519PrivateKey.generate()
    return KeyPair(
        encode(private.private_bytes_raw()), encode(private.public_key().public_bytes_raw())
    )


_public: Final[dict[bytes, str]] = {}
"""By a digest of the private half, which would otherwise stay here when its pod is gone."""


def public_key(private: str) -> str:
    """The public half of a private key, for which each look at a tunnel asks. Raises
    ``ValueError`` for a malformed one."""
    raw = decode(private)
    digest = hashlib.sha256(raw).digest()
    public = _public.get(digest)
    if public is None:
        key = X25519PrivateKey.from_private_bytes(raw)
        public = encode(key.public_key().public_bytes_raw())
        if len(_public) >= 1024:
            _public.clear()
        _public[digest] = public
    return public


def encode(raw: bytes) -> str:
    """Standard base64, as WireGuard's tools spell keys."""
    return base64.b64encode(raw).decode("ascii")


def decode(text: str) -> bytes:
    """The 32 bytes of a key. Raises ``ValueError`` saying what is wrong, never the key."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("key is not base64") from None
    if len(raw) != 32:
        raise ValueError(f"key has {len(raw)} bytes, not 32")
    return raw


def valid(text: str) -> bool:
    """Whether ``text`` is a key, as WireGuard spells it. Base64 leaves two bits of the last letter
    unused (RFC 4648, 3.5), so a key has four spellings, and who compares texts takes them for four
    keys."""
    try:
        return encode(decode(text)) == text
    except ValueError:
        return False
