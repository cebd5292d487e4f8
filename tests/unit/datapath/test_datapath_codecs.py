"""What is written to and read from the kernel and wireguard-go, as functions over bytes."""

from __future__ import annotations

import gc
import ipaddress
import struct
import weakref

import pytest

from egress_gateway.api import keys
from egress_gateway.datapath.linux import netlink, sockets
from egress_gateway.datapath.wireguard import kernel, uapi
from egress_gateway.datapath.wireguard.model import Config, Device, Endpoint, Peer, PeerStatus

PRIVATE = "YHNCEAuJRbNvDVvQIIVJ3DjT0h4hYXVEDZ1iOqrJ2X4="
PUBLIC = keys.public_key(PRIVATE)
OTHER = keys.generate().public


def test_a_key_pair_matches_what_wg_computes() -> None:
    # What `wg pubkey` prints for this private key.
    assert keys.public_key(PRIVATE) == "OtoYnln7EeRWuo4UqFNUVayIL/YHNmD6TY5S+zQms3U="
    pair = keys.generate()
    assert keys.public_key(pair.private) == pair.public
    assert pair.private not in repr(pair)


def test_the_private_key_of_a_pod_that_is_gone_stays_nowhere() -> None:
    class Key(str):
        """Unlike a ``str``, it tells when it goes."""

    private = Key(keys.generate().private)
    gone = weakref.ref(private)
    for _ in range(2):
        keys.public_key(private)
    del private
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("text", ["", "no", "YHNC", "é" * 44, keys.encode(b"31" * 15)])
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    assert not keys.valid(text)
    with pytest.raises(ValueError, match="key"):
        keys.decode(text)


def test_a_move_is_one_message_that_removes_and_adds_the_peer() -> None:
    peer = Peer(
        public_key=PUBLIC,
        allowed_ips=(ipaddress.ip_network("0.0.0.0/0"),),
        endpoint=Endpoint(ipaddress.ip_address("10.1.1.5"), 6000),
        keepalive=25,
        fresh=True,
    )
    key = keys.decode(PUBLIC).hex()
    assert uapi.encode(Config(listen_port=20001, peers=(peer,))).splitlines() == [
        "set=1",
        "listen_port=20001",
        f"public_key={key}",
        "remove=true",
        f"public_key={key}",
        "endpoint=10.1.1.5:6000",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=0.0.0.0/0",
        "",
    ]


def test_a_device_is_read_back() -> None:
    answer = "\n".join(
        [
            f"private_key={keys.decode(PRIVATE).hex()}",
            "listen_port=6000",
            f"public_key={keys.decode(OTHER).hex()}",
            "preshared_key=" + "00" * 32,
            "endpoint=[2001:db8::1]:20000",
            "last_handshake_time_sec=1700000000",
            "last_handshake_time_nsec=500000000",
            "tx_bytes=5",
            "rx_bytes=7",
            "persistent_keepalive_interval=0",
            "allowed_ip=10.244.1.2/32",
            "allowed_ip=2001:db8:1::2/128",
            "protocol_version=1",
            "errno=0",
            "",
            "",
        ]
    )
    assert uapi.decode_errno(answer) == 0
    assert uapi.decode(answer) == Device(
        public_key=PUBLIC,
        listen_port=6000,
        fwmark=0,
        peers={
            OTHER: PeerStatus(
                public_key=OTHER,
                endpoint=Endpoint(ipaddress.ip_address("2001:db8::1"), 20000),
                allowed_ips=frozenset(
                    (
                        ipaddress.ip_network("10.244.1.2/32"),
                        ipaddress.ip_network("2001:db8:1::2/128"),
                    )
                ),
                last_handshake=1700000000.5,
                received=7,
                sent=5,
            )
        },
    )


def test_a_new_device_has_neither_key_nor_peers() -> None:
    device = uapi.decode("private_key=" + "00" * 32 + "\nerrno=0\n\n")
    assert device == Device(public_key="", listen_port=0, fwmark=0, peers={})


def test_a_refusal_is_told_by_its_errno() -> None:
    assert uapi.decode_errno("errno=-98\n\n") == 98


@pytest.mark.parametrize("endpoint", ["10.1.1.5:6000", "[2001:db8::5]:6000"])
def test_the_kernels_messages_say_what_was_meant(endpoint: str) -> None:
    peer = Peer(
        public_key=OTHER,
        allowed_ips=(ipaddress.ip_network("10.244.1.2/32"), ipaddress.ip_network("2001:db8::/32")),
        endpoint=uapi.parse_endpoint(endpoint),
        keepalive=25,
    )
    (message,) = kernel.encode("wg0", Config(private_key=PRIVATE, listen_port=6000, peers=(peer,)))
    # What a get answers has the same attributes, so the decoder reads the request.
    device = kernel.decode([message[4:]])
    assert device.listen_port == 6000
    assert device.peers[OTHER].endpoint == peer.endpoint
    assert device.peers[OTHER].allowed_ips == frozenset(peer.allowed_ips)
    assert device.peers[OTHER].keepalive == 25


def test_many_peers_go_in_several_messages_and_only_the_first_replaces() -> None:
    peers = tuple(
        Peer(public_key=keys.encode(i.to_bytes(32, "big")), allowed_ips=()) for i in range(450)
    )
    messages = list(kernel.encode("wg0", Config(replace_peers=True, peers=peers)))
    assert len(messages) == 3
    flags = [5 in netlink.attributes(m[4:]) for m in messages]
    assert flags == [True, False, False]
    assert len(kernel.decode([m[4:] for m in messages]).peers) == 450
    assert all(len(netlink.attributes(m[4:])[8]) < 65536 for m in messages)


def test_attributes_with_nonsense_lengths_end_the_walk() -> None:
    sound = netlink.u32(1, 7)
    broken = struct.pack("=HH", 2, 9) + b"x"
    assert netlink.attributes(sound + broken) == {1: struct.pack("=I", 7)}


def test_connections_that_came_in_are_told_from_those_that_went_out() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0201F40A:1F90 0A6433C6:C350 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0201F40A:D431 0A6433C6:0050 01 00000000:00000000 00:00000000 00000000     0        0 3
"""
    found = list(sockets.parse(table))
    assert [s.local_port for s in found] == [8080, 8080, 54321]
    assert str(found[1].remote) == "198.51.100.10"
    assert found[1].remote_port == 50000


def test_ipv4_in_ipv6_sockets_is_ipv4() -> None:
    table = (
        "  sl  local_address rem_address st\n"
        "   0: 0000000000000000FFFF00000201F40A:1F90 "
        "0000000000000000FFFF00000A6433C6:C350 01 0:0 0:0 0 0 0 2\n"
    )
    (found,) = sockets.parse(table)
    assert str(found.remote) == "198.51.100.10"
