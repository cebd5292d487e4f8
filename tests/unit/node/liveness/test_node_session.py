"""Whether a session lives is asked on the way to whether a path does: no error may end that, and
what a pod hears elsewhere is no answer."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from egress_gateway.datapath.errors import NoSuchNamespace
from egress_gateway.node.attachment.moves import retarget
from egress_gateway.node.liveness import session
from egress_gateway.node.liveness.paths import path_of
from egress_gateway.node.liveness.proof import Prover
from egress_gateway.node.liveness.schedule import Hearing
from egress_gateway.node.reactor import Reactor
from egress_gateway.node.sandboxes.sandbox import Sandbox
from tests.unit.node.node_values import BALANCER, GW1, GW2, active, at, configuration


class Leaving:
    """A sandbox whose link goes while it is asked."""

    def __init__(self, opened: socket.socket | Exception | None) -> None:
        self.opened = opened

    async def open_echo(self) -> socket.socket | None:
        if isinstance(self.opened, Exception):
            raise self.opened
        return self.opened


def broken() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.close()
    return made


@pytest.mark.parametrize("opened", [None, OSError("no link"), NoSuchNamespace("gone"), broken()])
async def test_what_cannot_be_asked_is_no_lost_session(
    opened: socket.socket | Exception | None,
) -> None:
    assert await session.lives(cast("Sandbox", Leaving(opened))) is True


class Moving:
    """A sandbox that is asked for proof, and led to another gateway meanwhile."""

    def __init__(self) -> None:
        self.attachment = at(GW1)
        self.verified = asyncio.Event()
        self.muted = False

    async def question(self) -> bool:
        return True

    async def has_cookie(self, tunnel: object) -> bool:
        return False

    async def open_echo(self) -> None:
        return None

    def take_for_mute(self, until: float) -> None:
        self.muted = True

    def move(self) -> None:
        self.attachment = at(GW2)
        self.verified.set()


class Heard:
    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.said.append(name)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("leave", "proves", "said"),
    [
        ((0, 1), (), ["proven"]),  # nobody is there to ask
        ((1,), (), ["lost", "on_lost"]),
        ((0,), (), ["lost", "on_lost"]),
        ((1,), (0,), ["proven"]),
        ((), (1,), ["proven"]),  # the other one's handshake was faster
    ],
)
async def test_a_path_is_judged_by_handshakes_over_it_and_nobody_is_muted_for_being_slow(
    leave: tuple[int, ...], proves: tuple[int, ...], said: list[str]
) -> None:
    pods, heard = [Moving(), Moving()], Heard()
    prover = Prover(
        cast("Any", heard),
        cast("Any", SimpleNamespace(start=lambda sandbox: None)),
        heard=lambda path, then: False,
        on_lost=heard.on_lost,
        on_forgotten=heard.on_forgotten,
    )
    canary, other = cast("list[Sandbox]", pods)
    search = prover.suspect(path_of(active(at(GW1))), canary, [other])
    await asyncio.sleep(0.1)
    for number in leave:
        pods[number].move()
    await asyncio.sleep(0.1)
    for number in proves:
        pods[number].verified.set()
    await search
    assert heard.said == said
    assert not any(pod.muted for pod in pods), "it would send no echoes for 30 s, where it is now"


async def test_pods_of_a_lost_path_turn_to_the_balancer_if_it_is_their_only_gateway() -> None:
    """All of them: those that nobody has asked count as verified still."""
    path, now = path_of(active(at(GW1))), asyncio.get_running_loop().time()
    avoided: dict[str, float] = {}
    pod = SimpleNamespace(
        attachment=at(GW1, configuration=configuration(gateways=[GW1])),
        avoid=avoided.__setitem__,
    )
    moves = set[str]()
    parts = SimpleNamespace(
        kernel=Heard(),
        sandboxes=[pod],
        teller=Heard(),
        queues=SimpleNamespace(moves=moves),
        **dict.fromkeys(("settings", "knowledge", "endpoints", "records")),
    )
    Reactor(cast("Any", parts), Hearing(), cast("Any", None), cast("Any", None)).on_path_lost(path)
    assert moves == {pod.attachment.id}
    moved = retarget(
        pod.attachment,
        pod.attachment.configuration,
        doubt=lambda address: now,
        avoid=avoided,
        free_port=lambda: 30000,
    )
    assert active(moved).to == BALANCER
