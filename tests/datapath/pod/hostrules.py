"""Firewall rules of a node's other tenants, as kube-proxy, ip-masq-agent and Docker write them.

All at their harshest: FORWARD drops what it does not know, and everything that leaves is
masqueraded at a random port, nodes' own packets included, but for the pods' range. And a tenant has
made Services whose ``externalIPs`` are those of nodes, with the ports of tunnels (CVE-2020-8554):
packets to these addresses go to his pod. Three ways to load them: iptables of both kinds, and
nftables (kube-proxy's newer mode, a firewall beside it).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Final

import pytest

from tests.datapath.topology import Place

_IPTABLES: Final = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -s 10.244.0.0/16 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:IP-MASQ-AGENT - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.1.1.4/32 -p udp --dport 6000 -j DNAT --to-destination 10.244.1.99:9
-A KUBE-SERVICES -d 10.1.0.4/32 -p udp --dport 20000 -j DNAT --to-destination 10.244.1.99:9
-A KUBE-SERVICES ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A IP-MASQ-AGENT -d 10.244.0.0/16 -j RETURN
-A IP-MASQ-AGENT -j MASQUERADE --random-fully
COMMIT
"""

_NFTABLES: Final = """\
table inet firewall {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ip saddr 10.244.0.0/16 accept
    ct state established,related accept
  }
}
table ip kube-proxy {
  map external {
    type ipv4_addr . inet_service : ipv4_addr . inet_service;
    elements = { 10.1.1.4 . 6000 : 10.244.1.99 . 9, 10.1.0.4 . 20000 : 10.244.1.99 . 9 }
  }
  chain nat-prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    dnat ip to ip daddr . udp dport map @external
    ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x4000
  }
  chain nat-output {
    type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . udp dport map @external
    meta mark set meta mark | 0x4000
  }
  chain nat-postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
    ip daddr != 10.244.0.0/16 masquerade fully-random
  }
}
"""


def _restored(program: str) -> Callable[[Place], None]:
    def load(place: Place) -> None:
        _run(place, f"{program}-restore", _IPTABLES)

    return load


def _nftables(place: Place) -> None:
    place.nft(_NFTABLES)


HOSTS: Final[dict[str, Callable[[Place], None]]] = {
    "iptables-legacy": _restored("iptables-legacy"),
    "iptables-nft": _restored("iptables-nft"),
    "nftables": _nftables,
}


def require(host: str) -> None:
    """Skips, saying so, where the program or its part of the kernel is missing."""
    if host == "nftables":
        return
    if shutil.which(f"{host}-restore") is None:
        pytest.skip(f"{host}-restore is not there; install Debian's iptables")
    done = subprocess.run(
        ["unshare", "-n", f"{host}-restore", "--test"],
        input=_IPTABLES,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this kernel cannot do {host}: {done.stderr.strip().splitlines()[0]}")


def _run(place: Place, program: str, text: str) -> None:
    command = ["nsenter", f"--net=/run/netns/{place.name}", program]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{program}: {done.stderr}"
