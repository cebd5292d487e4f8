"""The Secret that holds a configuration's WireGuard keys, in the Go project's shape.

Each field is base64, as all Secret data, of the key's own base64 text. No error names a key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from egress_gateway.api import keys, names


def encoded(key: str) -> str:
    """A key's text as a field of the Secret's data."""
    return base64.b64encode(key.encode()).decode()


def data_of(pair: keys.KeyPair) -> dict[str, str]:
    """The data of a Secret with one pair."""
    return {
        names.SECRET_PRIVATE_KEY: encoded(pair.private),
        names.SECRET_PUBLIC_KEY: encoded(pair.public),
    }


def private_key(data: Mapping[str, str], name: str = names.SECRET_PRIVATE_KEY) -> str:
    """The private key (text) in the field ``name``. Raises ``ValueError`` saying what is wrong."""
    field = data.get(name)
    if not field:
        raise ValueError(f"{name} is missing")
    try:
        text = base64.b64decode(field, validate=True).decode("ascii").strip()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError(f"{name} is not base64 of a key") from None
    keys.decode(text)
    return text


def private_keys(data: Mapping[str, str]) -> list[str]:
    """Both private keys, or the only one; the one that serves first. Raises ``ValueError``."""
    found = [private_key(data)]
    if data.get(names.SECRET_SECOND_KEY):
        found.append(private_key(data, names.SECRET_SECOND_KEY))
    return found


def public_key(data: Mapping[str, str], name: str = names.SECRET_PRIVATE_KEY) -> str:
    """The public half of the private key in ``name``; empty if that is missing or malformed."""
    try:
        return keys.public_key(private_key(data, name))
    except ValueError:
        return ""
