"""Nodes run the current ``wireguard-go`` or their distribution's, and say which."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard import backends, host
from egress_gateway.datapath.wireguard.host import Tunnels, TunnelServer, release
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend
from egress_gateway.gateway import metrics as gateway_metrics
from egress_gateway.node import metrics as node_metrics
from egress_gateway.service.figures import Fact, Figure
from egress_gateway_lab import wireguard
from tests.datapath.box import boxed
from tests.datapath.wireguard.test_tunnel_users import subscriptions

CURRENT, DEBIANS = wireguard.built(), Path("/usr/bin/wireguard-go")
HERE = [program for program in (CURRENT, DEBIANS) if program.exists()]


def test_each_program_tells_its_release() -> None:
    if CURRENT.exists():
        assert release(str(CURRENT)) == wireguard.VERSION, "itself it says 0.0.20250522"
    if DEBIANS.exists():
        assert release(str(DEBIANS)).startswith("v0.0.")


def test_what_does_not_tell_is_of_unknown_release(tmp_path: Path) -> None:
    texts = ("\x7fELF", "#!/bin/sh\n", "#!/bin/sh\necho 'other 1.0'\n")
    for number, text in enumerate(texts):
        program = tmp_path / str(number)
        program.write_text(text)
        program.chmod(0o755)
        assert release(str(program)) == "unknown"
    assert release(str(tmp_path / "nosuch")) == "unknown"


@boxed
async def test_both_ask_for_what_the_filter_spares_them() -> None:
    """The day that one does not, it needs no filter."""
    assert [await _asks(program) for program in HERE] == [(False, 1500)] * len(HERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "calls_spared", lambda: None)
        assert [await _asks(program) for program in HERE] == [(True, 1420)] * len(HERE)


async def _asks(program: Path) -> tuple[bool, int]:
    """Whether it subscribes to others' links, and the MTU that its own link gets."""
    tunnels = Tunnels(str(program), Path("/run/wireguard"))
    try:
        await tunnels.create("one")
        with Links(NetNS.current()) as links:
            link = links.link("one")
        assert link is not None
        return subscriptions() != [], link.mtu
    finally:
        await tunnels.close()


@boxed
async def test_agents_hear_it_of_the_tunnels_host() -> None:
    for program in HERE:
        assert await _heard(program) == ("userspace", f"wireguard-go {release(str(program))}")


async def _heard(program: Path) -> tuple[str, str]:
    tunnels = Tunnels(str(program), Path("/run/wireguard"))
    door = Path("/run/tunnels.sock")
    serving = asyncio.create_task(TunnelServer(tunnels).serve(door))
    backend = UserspaceBackend(path=door)
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    telling = asyncio.create_task(
        backends.tell_version(backend, lambda *told: heard.put_nowait(told))
    )
    try:
        return await asyncio.wait_for(heard.get(), 60)
    finally:
        for task in (telling, serving):
            task.cancel()
        await asyncio.gather(telling, serving, return_exceptions=True)
        await tunnels.close()


class _Backend:
    """Answers as told, one after another, and stays with the last."""

    kind = "userspace"

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    def version(self) -> str:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise DatapathError("tunnel host does not answer")
        return answer


@pytest.mark.parametrize("figure", [node_metrics.WIREGUARD, gateway_metrics.WIREGUARD])
@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (("a",), ["a"]),
        ((None, None, "a"), ["a"]),
        (("a", "a", "b"), ["a", "b"]),
        (("a", None, "a"), ["a"]),
        (("wireguard-go", "wireguard-go v1"), ["wireguard-go", "wireguard-go v1"]),
    ],
    ids=["at once", "late", "replaced", "absent for a while", "older host first"],
)
async def test_a_version_is_told_once_and_when_it_changes(
    answers: tuple[str | None, ...],
    told: list[str],
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(backends, "_FIRST_LOOK_SECONDS", 0)
    fact = Fact(figure)
    backend, heard = _Backend(*answers), list[str]()

    def hear(kind: str, version: str) -> None:
        fact.tell(kind, version)
        heard.append(version)

    task = asyncio.create_task(backends.tell_version(backend, hear))  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while len(backend.answers) > 1 or heard != told:
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert heard == told
    (metric,) = fact.collect()
    assert [one.labels for one in metric.samples] == [{"backend": "userspace", "version": told[-1]}]
