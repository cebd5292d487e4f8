"""The whole node agent, killed after each single thing that it does. Run by ``test_kills.py``.

A new agent finds what is left. In the end everything is as if nobody had been killed: packets,
rules, routes, files, objects. Meanwhile a pod that has started, or is held, sends nothing by the
cluster's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.pod import side
from egress_gateway.node.attachment.files import Folder
from tests.effects import KERNEL, Effects, Killed
from tests.node.world import (
    INTERNET,
    RUN,
    CniError,
    PlayedApi,
    RunningPod,
    World,
    collect,
    sh,
    until,
)

_TOUCHES: Final[tuple[tuple[Any, str], ...]] = (
    *KERNEL,
    (side, "write_sysctl"),
    *((Folder, step) for step in ("write", "remove", "make")),
)
_CALLS: Final = tuple((PlayedApi, name) for name in ("apply", "merge_patch", "delete"))
CLUSTER: Final = "10.224.0.4"
"""What plain pods leave from."""


class Talker:
    """Datagrams out of a pod, all the time; the Internet counts those by another address."""

    def __init__(self, pod: RunningPod) -> None:
        with netns.NetNS.open(netns.DIRECTORY / pod.ns) as place:
            self._socket = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.setblocking(False)
        self._task = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._socket.sendto(b"x", (INTERNET, 9))
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


def watch_the_edge() -> None:
    sh(
        "nft 'add table ip edge; add counter ip edge wrong; add chain ip edge in"
        " { type filter hook input priority 0; };"
        f" add rule ip edge in ip saddr {{ {CLUSTER}, 10.244.0.0/16 }} ip daddr {INTERNET}"
        " udp dport 9 counter name wrong'",
        ns="inet",
    )


def wrong_packets() -> int:
    """Since this was last asked."""
    said = sh("nft reset counter ip edge wrong", ns="inet")
    return int(said.partition("packets ")[2].split()[0])


def known() -> list[Path]:
    """Files that say of which sandboxes the node knows."""
    return [*(RUN / "pods").glob("*"), *(RUN / "attached").glob("*")]


class Trial:
    """One pod, from its beginning to its end, with an agent that dies meanwhile."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.pod = RunningPod(world, name)
        self.talker: Talker | None = None
        self._sandboxes = 1

    async def started(self, *, annotation: str | None = "egress") -> None:
        """As a runtime does: a sandbox that could not be made is deleted, and another one made."""
        self.pod.annotate(annotation)
        async with asyncio.timeout(90):
            while True:
                try:
                    await self.pod.add()
                    break
                except CniError:
                    await self._given_up()
        self.pod.annotate(annotation)
        self.talker = Talker(self.pod)

    async def asked(self, verb: Callable[[], Awaitable[None]]) -> None:
        """As runtimes do: until the plugin says that it is done."""
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(CniError):
                    await verb()
                    return
                await asyncio.sleep(0.05)

    async def _given_up(self) -> None:
        await self.asked(lambda: self.pod.chain("DEL"))
        netns.delete(self.pod.ns)
        annotation, self._sandboxes = self.pod.annotation, self._sandboxes + 1
        self.pod = RunningPod(self.world, self.name, suffix=f"-{self._sandboxes}")
        self.pod.annotate(annotation)

    async def ended(self) -> None:
        await self.asked(lambda: self.pod.chain("DEL"))
        await self.gone()

    async def gone(self) -> None:
        """Without another word to the plugin."""
        if self.talker is not None:
            await self.talker.end()
            self.talker = None
        with contextlib.suppress(FileNotFoundError):
            netns.delete(self.pod.ns)
        self.world.pods.put("default", self.name, None)

    async def served(self, expected: set[str]) -> None:
        async with asyncio.timeout(90):
            while (seen := await self.pod.whoami(timeout=1)) not in expected:
                assert seen in ("", CLUSTER), f"{self.name} is seen as {seen}"


Story = Callable[[Trial], Awaitable[None]]
"""What a user or a runtime does; the agent does its part of it."""


async def starts(trial: Trial) -> None:
    await trial.started()


async def ends(trial: Trial) -> None:
    await trial.ended()


async def annotated(trial: Trial) -> None:
    trial.pod.annotate("egress")


async def released(trial: Trial) -> None:
    trial.pod.annotate(None)


async def changed(trial: Trial) -> None:
    trial.world.configure(exclude_cidrs=["172.16.0.0/12", "198.18.0.0/15"])


async def bypassed(trial: Trial) -> None:
    """To another configuration, of the same gateways."""
    trial.pod.annotate("other")


async def checked(trial: Trial) -> None:
    """A runtime checks a sandbox whose tunnel somebody has deleted, until it is well again."""
    sh("ip link delete wg0", ns=trial.pod.ns)
    await trial.asked(trial.pod.check)


async def lost_and_collected(trial: Trial) -> None:
    """The runtime has lost the sandbox, and says so now and then. Its namespace is there, and so
    is its pod."""
    async with asyncio.timeout(90):
        while known():
            await collect([])
            await asyncio.sleep(0.2)


STORIES: Final[dict[str, tuple[Story, str | None]]] = {
    "starts": (starts, "nobody"),
    "ends": (ends, "egress"),
    "annotated": (annotated, None),
    "released": (released, "egress"),
    "changed": (changed, "egress"),
    "bypassed": (bypassed, "egress"),
    "checked": (checked, "egress"),
    "collected": (lost_and_collected, "egress"),
}
"""What happens, and what the pod's annotation was before; ``nobody``: there was no pod."""


def _shape(pod: RunningPod | None) -> Counter[str]:
    """Rules, links and routes of node and pod, without what is another one each time."""
    node = sh("nft -s list ruleset; ip -o -br link; ip rule; ip route show table all")
    inside = (
        sh(
            "nft -s list ruleset; ip -o -br link; ip rule; ip -6 rule;"
            " ip route show table all; ip -6 route show table all",
            ns=pod.ns,
        )
        if pod
        else ""
    )
    lines = (one for one in (node + inside).splitlines() if not _BY_ITSELF.search(one))
    return Counter(filter(None, map(_plain, lines)))


_BY_ITSELF: Final = re.compile(r"\begspare|\bfe80:|\bff00:")
"""Made in advance, or by the kernel when it has found that nobody else has an address."""
_VOLATILE: Final = re.compile(
    r"@\S+|\b10\.244\.\d+\.\d+|\b10\.224\.0\.1\d|\bveth\w+|\begw\w+|\b2\d{4}\b"
    r"|[0-9a-f]{0,4}(?:::?[0-9a-f]+)+\b"
    r"|\bif\d+|elements = .*|^[0-9a-z\"., ]*( \}|,)$"
)


def _plain(line: str) -> str:
    return " ".join(_VOLATILE.sub("", line).split())


class Bench:
    """A world in which trial follows trial. Use ``everywhere`` around it."""

    def __init__(self, world: World, effects: Effects) -> None:
        self.world, self.effects = world, effects
        self.trials = 0
        self._empty = _shape(None)
        self._whole: dict[str, Counter[str]] = {}

    async def revive(self, again: int = 0) -> None:
        """The dead agent's remains are cleared away and a new one begins; ``again``: it is killed
        too, after that many changes, and a third one begins."""
        while True:
            await self.world.stop_agent()
            self.effects.arm(again)
            try:
                await self.world.start_agent()
            except Killed:
                again = 0
                continue
            if not again:
                return
            with contextlib.suppress(TimeoutError):
                await until(lambda: self.effects.dead, seconds=2)
            if not self.effects.disarm():
                return
            again = 0

    async def trial(
        self, story: str, at: int, how: str = "killed", again: int = 0, late: str = ""
    ) -> int:
        """Changes (or calls) that the agent made meanwhile; whoever was killed was killed after
        change ``at``. ``late``: the cache in which the agent hears of nothing until it has done
        all else, or is dead."""
        act, before = STORIES[story]
        self.trials += 1
        trial = Trial(self.world, f"{story[:2]}{self.trials}")
        publics = {gateway.public for gateway in self.world.gateways}
        if before != "nobody":
            await trial.started(annotation=before)
            await trial.served({CLUSTER} if before is None else publics)
            await self.world.rounds(1)
        wrong_packets()
        self.effects.arm(at, how)
        if late:
            self.world.caches[late].late = True
        acting: asyncio.Task[None] = asyncio.create_task(act(trial))  # type: ignore[arg-type]
        await self._over(acting)
        dead = self.effects.disarm()
        if late:
            self.world.caches[late].late = False
        made = self.effects.count if how == "killed" else self.effects.calls
        what = f"{story}, {how} after {at} ({self.effects.last}), again {again}, late {late}"
        try:
            if dead:
                await self.revive(again)
            async with asyncio.timeout(90):
                await acting
            await self._judge(trial, story, publics)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{what}: {error!r}") from error
        finally:
            self.effects.arm(0)
        return made

    async def _over(self, acting: asyncio.Task[None]) -> None:
        """The agent is dead, or has done its part and all that follows from it."""
        rounds = asyncio.create_task(self._rounds(acting))
        dead = asyncio.create_task(until(lambda: self.effects.dead, seconds=90))
        await asyncio.wait((rounds, dead), return_when=asyncio.FIRST_COMPLETED)
        for task in (rounds, dead):
            task.cancel()
        await asyncio.gather(rounds, dead, return_exceptions=True)

    async def _rounds(self, acting: asyncio.Task[None]) -> None:
        await asyncio.wait((acting,))
        await self.world.rounds(2)

    async def _judge(self, trial: Trial, story: str, publics: set[str]) -> None:
        if story == "collected":
            await self.world.rounds(2)
            assert not known(), f"came back: {known()}"
        elif story != "ends":
            await trial.served({CLUSTER} if story == "released" else publics)
            if story == "annotated":
                # Until the agent heard of it the pod was a plain one.
                wrong_packets()
            await self.world.rounds(2)
            await self._alike(trial, story)
        if story != "released":
            assert (wrong := wrong_packets()) == 0, f"{wrong} packets by the cluster's address"
        if story == "collected":
            await trial.gone()
        elif story != "ends":
            await trial.ended()
        self.world.configure()
        await self._emptied()

    async def _alike(self, trial: Trial, story: str) -> None:
        shape = _shape(trial.pod)
        first = self._whole.setdefault(story, shape)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(90):
                while first != (shape := _shape(trial.pod)):
                    await asyncio.sleep(0.2)
        assert shape == first, f"left {shape - first}, lacks {first - shape}"

    async def _emptied(self) -> None:
        left: object = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(90):
                while left := self._left():
                    await asyncio.sleep(0.1)
        assert not left, f"left behind: {left}"

    def _left(self) -> object:
        shape = _shape(None)
        return known() or self.world.endpoints.truth or shape - self._empty or self._empty - shape


@contextlib.asynccontextmanager
async def benched() -> AsyncIterator[Bench]:
    world = World()
    world.build()
    world.configure()
    world.configure("other")
    watch_the_edge()
    with Effects(_TOUCHES, _CALLS).everywhere() as effects:
        async with world.running():
            # What is made once for all pods is there before the first.
            first = Trial(world, "first")
            await first.started()
            await first.ended()
            await world.rounds(2)
            yield Bench(world, effects)


async def killed(story: str, step: str, pairs: str) -> None:
    """After each ``step``-th change, from a random one on; ``pairs`` times after one change, and
    the next agent after one of its own; and each call to the API server is lost, or its answer, or
    it is made twice."""
    async with benched() as bench:
        draw = random.Random(story)
        most = await bench.trial(story, 0)
        numbers = range(draw.randint(1, int(step)), most + 1, int(step))
        for number in numbers:
            await bench.trial(story, number)
        for _ in range(int(pairs)):
            await bench.trial(story, draw.randint(1, most), again=draw.randint(1, 12))
        calls = await bench.trial(story, 0, "lost")
        for how in ("lost", "unheard", "repeated"):
            for number in range(1, calls + 1):
                await bench.trial(story, number, how)
        print(
            f"{story}: {most} changes, killed after {len(numbers)} of them and {pairs} pairs; "
            f"{calls} calls, each lost, unheard and repeated"
        )


async def late(step: str) -> None:
    """Each story with one of the agent's watches late, and the agent killed at some change or at
    none; each ``step``-th of these trials."""
    async with benched() as bench:
        draw = random.Random("late")
        trials = [(s, cache, at) for s in STORIES for cache in bench.world.caches for at in (0, 1)]
        draw.shuffle(trials)
        for story, cache, killed_at in trials[:: int(step)]:
            await bench.trial(story, killed_at and draw.randint(1, 20), late=cache)
        print(f"{len(trials[:: int(step)])} trials")
