"""One WireGuard handshake as its initiator, and packets of its session, as functions over bytes.

A link tells whether *its* peer answers. This asks a server by hand, with a key that the server
knows, and leaves the links of that key alone. It is no tunnel: one session, a few packets, no
rekeying. From WireGuard's paper (5.4) and https://www.wireguard.com/protocol/.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from egress_gateway.api import keys

_CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_INITIATION, _RESPONSE, _COOKIE, _DATA = 1, 2, 3, 4
_HEAD: Final = struct.Struct("<BxxxI")
_RESPONSE_BYTES: Final = 92
_COOKIE_BYTES: Final = 64
_DATA_HEAD: Final = struct.Struct("<BxxxIQ")
_PADDED_TO: Final = 16
_NO_KEY: Final = bytes(32)
_TAI_OFFSET: Final = 2**62 + 10
"""TAI64's label of 1970 (https://cr.yp.to/libtai/tai64.html)."""
_BACKDATED: Final = 0.05
"""Seconds. A server takes an initiation only if it is dated later than the last of that key, by
clocks that round down to 17 ms: a link that begins just after us must win."""


@dataclass(slots=True)
class Session:
    """A completed handshake. ``peer`` is the server's index of it."""

    peer: int
    sending: ChaCha20Poly1305
    receiving: ChaCha20Poly1305
    sent: int = 0

    def seal(self, packet: bytes) -> bytes:
        """The datagram that carries an IP ``packet``; an empty one is a keepalive."""
        padded = packet + bytes(-len(packet) % _PADDED_TO)
        head = _DATA_HEAD.pack(_DATA, self.peer, self.sent)
        sealed = self.sending.encrypt(_nonce(self.sent), padded, None)
        self.sent += 1
        return head + sealed

    def open(self, datagram: bytes) -> bytes | None:
        """The IP packet, padded, that a datagram of this session carries; None if it is none."""
        if len(datagram) < _DATA_HEAD.size or datagram[0] != _DATA:
            return None
        _, _, number = _DATA_HEAD.unpack_from(datagram)
        try:
            return self.receiving.decrypt(_nonce(number), datagram[_DATA_HEAD.size :], None)
        except InvalidTag:
            return None


class Initiator:
    """One attempt. ``initiation`` is the datagram to send, once."""

    def __init__(self, *, private_key: str, server_key: str, now: float) -> None:
        """``now`` in seconds since the epoch. Raises ``ValueError`` for a malformed key."""
        server = keys.decode(server_key)
        self._static = X25519PrivateKey.from_private_bytes(keys.decode(private_key))
        self._ephemeral = X25519PrivateKey.generate()
        self.index = int.from_bytes(os.urandom(4))
        """By which the server's answers name this attempt."""
        mine = self._ephemeral.public_key().public_bytes_raw()
        remote = X25519PublicKey.from_public_bytes(server)
        chain = _hash(_CONSTRUCTION)
        digest = _hash(_hash(chain + _IDENTIFIER) + server)
        (chain,) = _kdf(chain, mine, 1)
        digest = _hash(digest + mine)
        chain, key = _kdf(chain, self._ephemeral.exchange(remote), 2)
        static = _seal(key, self._static.public_key().public_bytes_raw(), digest)
        digest = _hash(digest + static)
        chain, key = _kdf(chain, self._static.exchange(remote), 2)
        stamp = _seal(key, _tai64n(now - _BACKDATED), digest)
        self._digest = _hash(digest + stamp)
        self._chain = chain
        message = _HEAD.pack(_INITIATION, self.index) + mine + static + stamp
        mac = hashlib.blake2s(message, key=_hash(b"mac1----" + server), digest_size=16)
        self.initiation = message + mac.digest() + bytes(16)

    def answered(self, datagram: bytes) -> Session | None:
        """The session, if ``datagram`` is the server's response to this attempt."""
        if len(datagram) != _RESPONSE_BYTES or datagram[0] != _RESPONSE:
            return None
        peer, mine = struct.unpack_from("<II", datagram, 4)
        if mine != self.index:
            return None
        theirs, empty = datagram[12:44], datagram[44:60]
        remote = X25519PublicKey.from_public_bytes(theirs)
        (chain,) = _kdf(self._chain, theirs, 1)
        digest = _hash(self._digest + theirs)
        try:
            (chain,) = _kdf(chain, self._ephemeral.exchange(remote), 1)
            (chain,) = _kdf(chain, self._static.exchange(remote), 1)
            chain, mixed, key = _kdf(chain, _NO_KEY, 3)
            digest = _hash(digest + mixed)
            ChaCha20Poly1305(key).decrypt(_nonce(0), empty, digest)
        except (InvalidTag, ValueError):  # forged
            return None
        sending, receiving = _kdf(chain, b"", 2)
        return Session(peer, ChaCha20Poly1305(sending), ChaCha20Poly1305(receiving))

    def put_off(self, datagram: bytes) -> bool:
        """Whether ``datagram`` is a cookie for this attempt: the server is there, and has much to
        do (5.3 of the paper)."""
        if len(datagram) != _COOKIE_BYTES or datagram[0] != _COOKIE:
            return False
        return receiver(datagram) == self.index


def receiver(datagram: bytes) -> int | None:
    """The index of the attempt that a server's datagram is for; None if it is for none."""
    if len(datagram) < _DATA_HEAD.size:
        return None
    place = {_RESPONSE: 8, _COOKIE: 4, _DATA: 4}.get(datagram[0])
    return None if place is None else int.from_bytes(datagram[place : place + 4], "little")


def _hash(message: bytes) -> bytes:
    return hashlib.blake2s(message).digest()


def _kdf(key: bytes, message: bytes, count: int) -> list[bytes]:
    """HKDF (RFC 5869) by BLAKE2s: ``count`` keys."""
    secret = hmac.digest(key, message, "blake2s")
    found: list[bytes] = []
    for number in range(1, count + 1):
        last = found[-1] if found else b""
        found.append(hmac.digest(secret, last + bytes([number]), "blake2s"))
    return found


def _seal(key: bytes, plain: bytes, digest: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_nonce(0), plain, digest)


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")


def _tai64n(now: float) -> bytes:
    seconds = int(now)
    return struct.pack("!QI", _TAI_OFFSET + seconds, int((now - seconds) * 1e9))
