"""The kernel tells of changes in a namespace; nobody has to look at a clock for them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from egress_gateway.datapath.errors import NoSuchNamespace
from egress_gateway.datapath.linux import netlink, netns
from egress_gateway.datapath.linux.netlink import Message
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.notify import Watcher, concerns
from tests.datapath.box import boxed

PLACE = Path("/run/netns/p")
NFT = "table inet ours { chain c { counter; }; set s { type ipv4_addr; }; }"


class Scene:
    """A namespace with one of each thing that can be damaged, and who is told of it."""

    def __init__(self) -> None:
        netns.create("p").close()
        # Or an address would change once more, a second later, when it is no duplicate.
        settings = "echo 0 >ipv6/conf/default/accept_dad; echo 1 >ipv4/ip_forward"
        script = f"cd /proc/sys/net; {settings}"
        subprocess.run(["ip", "netns", "exec", "p", "sh", "-c", script], check=True)
        for command in (
            "ip link add one type veth peer name two",
            "ip link set one up",
            "ip link set two up",
            "ip address add 192.0.2.1/24 dev one",
            "ip route add 198.51.100.0/24 via 192.0.2.2",
            "ip rule add fwmark 7 lookup 100",
        ):
            self.run(command)
        self.nft(NFT)
        self.told: Counter[str] = Counter()
        self.more = asyncio.Condition()
        self.watcher = Watcher(self._changed)

    def run(self, command: str) -> None:
        subprocess.run(["ip", "netns", "exec", "p", *command.split()], check=True)

    def batch(self, commands: list[str]) -> None:
        command = ["ip", "netns", "exec", "p", "ip", "-batch", "-"]
        subprocess.run(command, input="\n".join(commands), text=True, check=True)

    def nft(self, ruleset: str) -> None:
        subprocess.run(["ip", "netns", "exec", "p", "nft", ruleset], check=True)

    def _changed(self, key: str) -> None:
        self.told[key] += 1

    async def silence(self) -> None:
        """Until nothing has been told for a while that is long beside ``limit``."""
        before = -1
        while before != self.told.total():
            before = self.told.total()
            await asyncio.sleep(0.6)

    async def hears(self, what: str, act: Callable[[], None]) -> None:
        await self.silence()
        before = self.told["pod"]
        act()
        async with asyncio.timeout(60):
            while self.told["pod"] == before:
                await asyncio.sleep(0.01)
        print("told of", what)


@contextlib.asynccontextmanager
async def playing() -> AsyncIterator[Scene]:
    scene = Scene()
    try:
        yield scene
    finally:
        scene.watcher.close()


def here(command: str) -> bool:
    return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0


DAMAGE = (
    "nft flush ruleset",
    "nft flush chain inet again c",
    "nft delete table inet again",
    "ip route del 198.51.100.0/24",
    "ip rule del fwmark 7 lookup 100",
    "ip address del 192.0.2.1/24 dev one",
    "ip link set one mtu 1300",
    "ip link set one down",
    "ip -6 route add 2001:db8::/64 dev two",
    "ip -6 rule add fwmark 9 lookup 101",
    "ip -6 address add 2001:db8:1::1/64 dev two",
    "sysctl -q -w net.ipv4.ip_forward=0",
    "sysctl -q -w net.ipv4.conf.all.rp_filter=1",
    "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1",
    "ip link del one",
)


@boxed
async def test_each_kind_of_damage_is_told() -> None:
    async with playing() as scene:
        assert await scene.watcher.watch("pod", PLACE)
        for damage in DAMAGE:
            await scene.hears(damage, partial(scene.run, damage))
            if damage == "nft flush ruleset":
                await scene.hears("a table", partial(scene.nft, NFT.replace("ours", "again")))


@boxed
async def test_other_programs_tables_are_nobodys_business() -> None:
    async with playing() as scene:
        await scene.watcher.watch("pod", PLACE, tables={"ours"})
        await scene.silence()
        before = scene.told["pod"]
        scene.nft("table inet kube-proxy { chain services { }; map m { type mark : verdict; }; }")
        scene.nft("add rule inet kube-proxy services counter")
        scene.nft("delete table inet kube-proxy")
        await scene.silence()
        assert scene.told["pod"] == before
        await scene.hears("a rule", lambda: scene.nft("add rule inet ours c counter"))
        await scene.hears("an element", lambda: scene.nft("add element inet ours s { 192.0.2.9 }"))
        await scene.hears("a flush", lambda: scene.nft("flush ruleset"))


@boxed
async def test_a_namespace_that_loses_its_name_is_told_and_let_go() -> None:
    async with playing() as scene:
        link = scene.watcher
        here("ip link add outer type veth peer name inner netns p")
        await link.watch("pod", PLACE)
        await scene.hears("the end", lambda: netns.delete("p"))
        assert link.keys == frozenset()

        # The other end of the pair goes when the kernel takes the namespace down.
        async with asyncio.timeout(60):
            while here("ip link show outer"):
                await asyncio.sleep(0.02)
        with pytest.raises(NoSuchNamespace):
            await link.watch("pod", PLACE)
        assert link.keys == frozenset()


@boxed
async def test_a_namespace_of_the_same_name_is_another_one() -> None:
    async with playing() as scene:
        assert await scene.watcher.watch("pod", PLACE)
        assert not await scene.watcher.watch("pod", PLACE), "nothing new"
        await scene.hears("the end", lambda: netns.delete("p"))
        netns.create("p").close()
        assert await scene.watcher.watch("pod", PLACE)
        await scene.hears("a table of the new one", lambda: scene.nft(NFT))
        with NetNS.open(PLACE) as opened:
            assert await scene.watcher.watch("pod", opened, tables={"ours"})
            assert not await scene.watcher.watch("pod", opened, tables={"ours"})
        scene.watcher.forget("pod")


@boxed
async def test_a_burst_is_a_few_calls_and_what_is_lost_is_told() -> None:
    """40,000 routes overrun the buffer; still the last call comes after the last change."""

    async with playing() as scene:
        await scene.watcher.watch("pod", PLACE)
        await scene.silence()
        before = scene.told["pod"]
        routes = [f"route add 10.{i // 256}.{i % 256}.0/24 via 192.0.2.2" for i in range(40000)]
        await asyncio.to_thread(scene.batch, routes)
        await scene.hears("the route after it", lambda: scene.run("ip route del 10.0.1.0/24"))
        assert scene.told["pod"] - before < 2000


def test_the_end_of_a_transaction_is_no_notice_of_its_own() -> None:
    generation = Message((10 << 8) | 15, 0, b"\0\0\0\0" + netlink.attribute(1, b"ours"))
    assert not concerns(generation, None)
    rule = Message((10 << 8) | 6, 0, b"\1\0\0\0" + netlink.text(1, "ours"))
    assert concerns(rule, {"ours"})
    assert concerns(rule, None)
    assert not concerns(rule, {"theirs"})
