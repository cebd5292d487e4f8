"""The fabric's nftables: a fixed table, and the transaction from one desired state to the next.

The rules never change; what changes are sets, maps and the small chains that maps jump to. So
counters live as long as the fabric, and a change costs what changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from egress_gateway_lab.fabric.desired import Desired

INTERNET_LINK = "inet"
ON_PREMISES_LINK = "corp"
COUNTERS = (
    "spoofed",
    "unreachable",
    "cut",
    "no_outbound",
    "untranslated",
    "unsolicited",
    "no_backend",
)
"""Why the fabric drops packets: source not the NIC's own (or a pod's, leaving the virtual
network); destination that nobody has; link cut; no public address and no outbound rule; invalid
packet of no translated flow; from the Internet without a flow or public address; no healthy
backend."""

SKELETON = """
table ip fabric
delete table ip fabric
table ip fabric {
  counter spoofed { }
  counter unreachable { }
  counter cut { }
  counter no_outbound { }
  counter untranslated { }
  counter unsolicited { }
  counter no_backend { }

  set sources { type ifname . ipv4_addr; }
  set overlay_sources { type ifname . ipv4_addr; flags interval; }
  set overlay { type ipv4_addr; flags interval; }
  set private { type ipv4_addr; flags interval; }
  set translated { type ipv4_addr; }
  set public { type ipv4_addr; }
  set cut_inbound { type ifname; }
  set cut_outbound { type ifname; }
  set cut_internet { type ifname; }
  set cut_tunnels { type ifname; }
  set cut_large { type ifname; }
  map instance_public { type ipv4_addr : ipv4_addr; }
  map public_instance { type ipv4_addr : ipv4_addr; }
  map outbound { type ipv4_addr : verdict; }
  map floating { type ipv4_addr . inet_proto . inet_service : verdict; }
  map floating_all { type ipv4_addr : verdict; }
  map balanced { type ipv4_addr . inet_proto . inet_service : verdict; }
  map balanced_all { type ipv4_addr : verdict; }

  chain enter {
    type filter hook prerouting priority raw;
    iifname "lo" accept
    iifname { "inet", "corp" } ip saddr @private counter name spoofed drop
    iifname { "inet", "corp" } ip saddr @overlay counter name spoofed drop
    iifname { "inet", "corp" } accept
    iifname @cut_outbound counter name cut drop
    iifname . ip saddr @sources accept
    iifname . ip saddr @overlay_sources accept
    counter name spoofed drop
  }
  chain balance {
    type filter hook prerouting priority mangle;
    meta l4proto { tcp, udp } ip daddr . meta l4proto . th dport vmap @floating
    ip daddr vmap @floating_all
  }
  chain inbound {
    type nat hook prerouting priority dstnat;
    iifname "inet" dnat to ip daddr map @public_instance
    meta l4proto { tcp, udp } ip daddr . meta l4proto . th dport vmap @balanced
    ip daddr vmap @balanced_all
  }
  chain input {
    type filter hook input priority filter;
    iifname "inet" counter name unsolicited drop
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    oifname "lo" counter name unreachable drop
    iifname @cut_internet oifname "inet" counter name cut drop
    iifname @cut_large oifname "inet" ip length > 1400 counter name cut drop
    iifname "inet" oifname @cut_internet counter name cut drop
    oifname { "inet", "corp" } ip saddr @overlay counter name spoofed drop
    iifname "inet" oifname "inet" counter name unsolicited drop
    iifname "inet" ct status snat accept
    iifname "inet" ct status dnat accept
    iifname "inet" ct mark != 0 accept
    iifname "inet" counter name unsolicited drop
    oifname "inet" ip daddr { 10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16 } counter name unreachable drop
    oifname "inet" ip saddr @translated accept
    oifname "inet" ct status dnat ct direction reply accept
    oifname "inet" counter name no_outbound drop
    accept
  }
  chain outward {
    type nat hook postrouting priority srcnat;
    oifname "inet" snat to ip saddr map @instance_public
    oifname "inet" ip saddr vmap @outbound
  }
  chain leave {
    type filter hook postrouting priority srcnat + 100;
    oifname @cut_inbound counter name cut drop
    oifname @cut_tunnels udp dport 6000-6999 counter name cut drop
    oifname "inet" ip saddr != @public counter name untranslated drop
  }
}
"""  # noqa: E501


def transaction(before: Desired | None, after: Desired) -> str:
    """Commands that take the fixed table with ``before`` in it to ``after``; empty if equal.

    Elements go before the chains they jump to, and come after them.
    """
    old_elements = before.elements if before else {}
    old_chains = before.chains if before else {}
    lines = [*_element_lines("delete", after.elements, old_elements)]
    for name in sorted(after.chains.keys() - old_chains.keys()):
        lines.append(f"add chain ip fabric {name}")
        lines.extend(f"add rule ip fabric {name} {rule}" for rule in after.chains[name])
    lines.extend(_element_lines("add", old_elements, after.elements))
    for name in sorted(old_chains.keys() - after.chains.keys()):
        lines.append(f"delete chain ip fabric {name}")
    return "\n".join(lines)


def _element_lines(
    verb: str, base: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """``verb`` for the elements of ``other`` that ``base`` lacks or has with another value."""
    for name in sorted(other):
        have = base.get(name, {})
        changed = [(k, v) for k, v in other[name].items() if k not in have or have[k] != v]
        if changed:
            texts = (f"{k} : {v}" if v and verb == "add" else k for k, v in changed)
            yield f"{verb} element ip fabric {name} {{ {', '.join(texts)} }}"


def loses(before: Desired | None, after: Desired) -> bool:
    """Whether flows that ``before`` allowed may be stale now."""
    if before is None:
        return False
    return any(_element_lines("delete", after.elements, before.elements)) or (
        before.translations != after.translations
    )
