"""An agent of many pods has thousands of descriptors; libnftables' select(2) would end it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

from egress_gateway.datapath.linux.nft import Nftables
from tests.datapath.box import boxed
from tests.datapath.topology import Place


@boxed
def test_nftables_are_changed_and_read_whatever_the_number_of_descriptors() -> None:
    place = Place("place")
    nft = Nftables(place.netns)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with contextlib.ExitStack() as stack:
        pair = socket.socketpair()
        for _ in range(2000):
            stack.callback(os.close, os.dup(pair[0].fileno()))
        nft.apply("table inet t {\ncounter c {\n}\n}")
        # Also inside a call that has entered the namespace, as a pod's whole pass is.
        assert place.netns.run(lambda: nft.counter("inet", "t", "c")) == 0
        assert nft.table("inet", "none") is None
        pair[1].sendall(b"open")
        assert pair[0].recv(10) == b"open", "nobody else's descriptors were touched"
    assert nft.counter("inet", "t", "c") == 0
