"""The node image's own source translation, as azure-ip-masq-agent sets it up on AKS.

Pods speak with their own addresses inside the cluster and its virtual network; whatever else they
reach sees the node's address. Metadata service and DNS (169.254.169.254, 168.63.129.16) see the
node's too: they tell machines apart by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from egress_gateway_lab.runtime.nodes.node import MachineError, Node

TABLE = "azure-ip-masq-agent"


def ruleset(pods: IPv4Network, inside: Sequence[IPv4Network]) -> str:
    """nft text: sources in ``pods`` are translated unless the destination is ``inside``."""
    destinations = ", ".join(str(network) for network in inside)
    return f"""
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pods} ip daddr != {{ {destinations} }} counter masquerade
  }}
}}
"""


async def apply(node: Node, pods: IPv4Network, inside: Sequence[IPv4Network]) -> None:
    """Sets the rules on a machine. Raises ``MachineError``."""
    done = await node.run(["nft", "-f", "-"], stdin=ruleset(pods, inside).encode())
    if done.code != 0:
        raise MachineError(f"nft on {node.name}: {done.stderr.decode().strip()}")
