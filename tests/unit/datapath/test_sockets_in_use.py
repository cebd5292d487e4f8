"""Whether a namespace has sockets at all, by the kernel's statistics."""

from __future__ import annotations

from egress_gateway.datapath.linux.sockets import in_use

EMPTY = """sockets: used 1
TCP: inuse 0 orphan 0 tw 0 alloc 7 mem 0
UDP: inuse 0 mem 0
UDPLITE: inuse 0
RAW: inuse 0
FRAG: inuse 0 memory 0
TCP6: inuse 0
UDP6: inuse 0
RAW6: inuse 0
"""


def test_sockets_of_other_namespaces_do_not_count() -> None:
    """``alloc`` is the whole machine's."""
    assert in_use(EMPTY) == 0


def test_both_families_and_all_protocols_count() -> None:
    assert in_use(EMPTY.replace("TCP: inuse 0", "TCP: inuse 2")) == 2
    assert in_use(EMPTY.replace("TCP6: inuse 0", "TCP6: inuse 1")) == 1
    assert in_use(EMPTY.replace("RAW: inuse 0", "RAW: inuse 1")) == 1
    assert in_use(EMPTY.replace("UDP6: inuse 0", "UDP6: inuse 3")) == 3
    assert in_use("") == 0
