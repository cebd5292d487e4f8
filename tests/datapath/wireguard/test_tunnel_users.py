"""Userspace tunnels do not share one user's allowance of inotify watchers."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.datapath.wireguard.host import Tunnels, command
from tests.datapath.box import boxed


def test_the_user_follows_from_the_name() -> None:
    assert command("wireguard-go", "a", own_user=False) == ["wireguard-go", "a"]
    one, again, other = (command("wireguard-go", n, own_user=True) for n in ("a", "a", "b"))
    assert one == again
    assert one[:2] == other[:2] == ["setpriv", "--reuid"]
    assert one[2] != other[2]
    assert list(one[-2:]) == ["wireguard-go", "a"]


@boxed
async def test_each_tunnel_runs_as_a_user_of_its_own() -> None:
    """Of root's 128 watchers on a machine none is used up."""
    tunnels = Tunnels("wireguard-go", Path("/run/wireguard"))
    try:
        for name in ("one", "two", "three"):
            await tunnels.create(name)
        assert tunnels.names() == ["one", "three", "two"]
        users = {name: _user(name) for name in tunnels.names()}
        assert 0 not in users.values()
        assert len(set(users.values())) == 3
    finally:
        await tunnels.close()


def _user(name: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[-2:-1] == [name.encode()] and words[0].endswith(b"wireguard-go"):
                return _effective(entry)
    raise AssertionError(f"no process of {name}")


def _effective(process: Path) -> int:
    line = next(s for s in (process / "status").read_text().splitlines() if s.startswith("Uid:"))
    return int(line.split()[2])


@boxed
async def test_tunnels_do_not_wake_for_what_happens_to_others_links() -> None:
    """With a hundred of them on a node that was most of what a pod's start cost."""
    tunnels = Tunnels("wireguard-go", Path("/run/wireguard"))
    try:
        await tunnels.create("one")
        assert subscriptions() == [], "wireguard-go asks for groups 1, 5 and 9"
    finally:
        await tunnels.close()


def subscriptions() -> list[str]:
    """Groups of rtnetlink sockets in this namespace (a mask in hexadecimal), but for nobody's."""
    lines = Path("/proc/net/netlink").read_text().splitlines()[1:]
    return [
        line.split()[3] for line in lines if line.split()[1] == "0" and int(line.split()[3], 16)
    ]
