"""Somebody damages a pod's namespace. Run by ``test_damages.py``.

Routine passes come once in ten minutes here: whatever is mended was heard of from the kernel.
"""

from __future__ import annotations

import asyncio
import time

from tests.node.world import RunningPod, World, sh, until

_CHAINS = ("arriving", "begun", "begun_tcp", "routing", "hold")
DAMAGES = (
    "nft flush ruleset",
    "nft delete table inet egress_gateway",
    "nft flush chain inet egress_gateway hold",
    "nft delete rule inet egress_gateway arriving handle"
    " $(nft -a list chain inet egress_gateway arriving | sed -n 's/.*# handle //p' | tail -1)",
    "ip rule del pref 32765",
    "ip -6 rule del pref 32765",
    "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
    "ip route flush table 25959",
    "ip route del default table 25959",
    "ip route add 198.51.100.0/24 via 10.244.1.1 dev eth0 table 25959",
    "nft insert rule inet egress_gateway hold accept",
    "ip link set wg0 down; ip link set wg0 name other; ip link set other up",
    "ip link set wg0 down",
    "ip link set wg0 mtu 1300",
    "ip link del wg0",
    "ip addr flush dev eth0; ip addr add $ADDRESS dev eth0; ip route add 10.244.1.1 dev eth0;"
    " ip route replace default via 10.244.1.1 dev eth0",
)


async def answers(world: World, pod: RunningPod, *, after: str) -> None:
    publics = {gateway.public for gateway in world.gateways}
    async with asyncio.timeout(90):
        while True:
            seen = await pod.whoami(timeout=2)
            assert seen in {"", *publics}, f"{after}: seen as {seen}"
            if seen:
                return


async def damage_is_mended_without_a_clock() -> None:
    world = World()
    world.build()
    world.configure()
    world.settings = world.settings.__class__(
        node_name="node-1",
        run_dir=world.settings.run_dir,
        cluster_cidrs=world.settings.cluster_cidrs,
        resync_interval=600.0,
    )
    async with world.running():
        await until(lambda: world.sources.rounds)  # the first pass would mend it all
        pod = await world.start_pod("web")
        intact = intact_rules(pod)
        for damage in DAMAGES:
            await until(lambda: intact_rules(pod) == intact)
            sh(damage.replace("$ADDRESS", f"{pod.address}/24"), ns=pod.ns)
            began = time.monotonic()
            await answers(world, pod, after=damage)
            print(f"{time.monotonic() - began:5.2f} s  {damage[:60]}")


def intact_rules(pod: RunningPod) -> tuple[str, str, str]:
    rules = "\n".join(sorted(sh("ip rule; ip -6 rule", ns=pod.ns).splitlines()))
    routes = "\n".join(sorted(sh("ip route show table 25959", ns=pod.ns).splitlines()))
    # Not the sets: a table that is made anew notes the connections that there are.
    chains = (f"nft -s list chain inet egress_gateway {name} || true" for name in _CHAINS)
    table = sh("; ".join(chains), ns=pod.ns)
    return rules, routes, table
