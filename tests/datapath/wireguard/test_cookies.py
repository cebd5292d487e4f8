"""The node notes which tunnels get cookies, tells them from everything else, and shows them."""

from __future__ import annotations

import base64
import hashlib
import os
import select
import socket
import struct
import time

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from egress_gateway.api import keys
from egress_gateway.datapath.pod.sources import SourceFilter
from tests.attacks.packets.test_pod_on_a_gateway_node import datagram
from tests.datapath.box import boxed
from tests.datapath.test_packets import NODE
from tests.datapath.topology import PORT, World, until

_COOKIE, _RESPONSE, _DATA = 3, 2, 4


@boxed
def test_a_cookie_from_the_tunnels_gateway_is_noted_and_nothing_else_is() -> None:
    world = World()
    node, gateway, pod = world.worker, world.gateways[0], world.pod("pod-a").place.netns
    filter_ = SourceFilter(node.netns)
    assert filter_.cookies() == frozenset(), "there is no table yet"
    listening = {}
    for port in (20000, 20001, 20002, 20003, 20004):
        filter_.allow(port, gateway.primary)
        listening[port] = node.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening[port].bind(("", port))
        listening[port].settimeout(60)
    sender = gateway.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger = world.internet.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger.sendto(bytes([_COOKIE]).ljust(64), (NODE, 20003))
    forged = datagram(str(gateway.primary), NODE, PORT, 20004, bytes([_COOKIE]).ljust(64))
    with pod.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        raw.sendto(forged, (NODE, 0))
    assert listening[20004].recv(200)[0] == _COOKIE, "a pod's forgery comes in"
    for port, kind, length in (
        (20001, _RESPONSE, 92),
        (20002, _DATA, 64),
        (20003, _COOKIE, 63),
        (20000, _COOKIE, 64),
    ):
        sender.sendto(bytes([kind]).ljust(length), (NODE, port))
        assert listening[port].recv(200)[0] == kind, "what is noted arrives all the same"
    until(lambda: filter_.cookies() == {20000}, "the cookie is noted")
    assert filter_.sync() is False, "what is noted is no damage"
    assert filter_.cookies() == {20000}


def _subkey(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha, 2.2): the block of ChaCha20 without what it adds last."""
    block = Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(64))
    added = struct.unpack("<16I", b"expand 32-byte k" + key + nonce)
    words = [
        (word - more) % 2**32
        for word, more in zip(struct.unpack("<16I", block), added, strict=True)
    ]
    return struct.pack("<8I", *words[:4], *words[12:])


def _reply(initiation: bytes, server: str, cookie: bytes) -> bytes:
    """A server's cookie for an initiation (WireGuard's whitepaper, 5.4.7)."""
    nonce = os.urandom(24)
    key = _subkey(hashlib.blake2s(b"cookie--" + base64.b64decode(server)).digest(), nonce[:16])
    sealed = ChaCha20Poly1305(key).encrypt(bytes(4) + nonce[16:], cookie, initiation[116:132])
    return bytes([_COOKIE, 0, 0, 0]) + initiation[4:8] + nonce + sealed


@boxed
def test_the_next_initiation_shows_the_cookie_and_no_wait_of_wireguards_comes_before_it() -> None:
    """Begun anew, the handshake would lose the cookie: no initiation would ever show it."""
    world = World()
    gateway, pair, cookie = world.gateways[0], keys.generate(), os.urandom(16)
    pod = world.pod("pod-a")
    server = gateway.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind((str(gateway.primary), PORT))
    server.settimeout(60)
    desired = pod.desired(pair.public, str(gateway.primary))
    pod.side.converge(desired)
    initiation, client = server.recvfrom(200)
    assert initiation[132:] == bytes(16)
    server.sendto(_reply(initiation, pair.public, cookie), client)

    pause = 0.01

    def shown() -> bool:
        """WireGuard opens a cookie a moment after it has come by, and none that is for another than
        its last initiation. So the last is answered with one, and has ever more time."""
        nonlocal pause
        pod.side.show_cookie(desired)
        seen = server.recv(200)
        while select.select([server], [], [], 0)[0]:
            seen = server.recv(200)
        if hashlib.blake2s(seen[:132], key=cookie, digest_size=16).digest() == seen[132:]:
            return True
        server.sendto(_reply(seen, pair.public, cookie), client)
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
        return False

    for _ in range(3):
        until(shown, "the cookie is shown")
    assert pod.side.converge(desired) == [], "nothing else is left of it"
