"""The whole gateway agent, killed after each single change that it makes; a new one comes back.

The same program as shipped, an API server, the real kernel. In the end the gateway is as if nobody
had been killed, and no packet of the pod ever had another address than its configuration's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from egress_gateway.datapath.linux import conntrack, netns
from egress_gateway.gateway import main
from egress_gateway.gateway.settings import Settings
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import NotFound
from egress_gateway.kube.resources import POD_ENDPOINTS, PODS
from egress_gateway.service.errors import OperatorError
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, Story, attach, begin
from tests.datapath.topology import Gateway, World, until
from tests.effects import KERNEL, Effects, Watches

STEP: Final = int(os.environ.get("KILLS_STEP", "5"))
"""After each fifth change, from a random one on; 1 for all of them."""
OTHER: Final = "10.1.1.102"
_TOUCHES: Final = (
    *KERNEL,
    (netns, "create"),
    (netns, "delete"),
    (netns, "write_sysctl"),
    (conntrack, "forget_translated"),
    (conntrack, "forget_sources"),
)
_CALLS: Final = tuple(
    (Client, name) for name in ("get", "list", "create", "apply", "merge_patch", "delete")
)
_ANSWERS: Final = ("lost", "unheard", "repeated")
_WATCHED: Final = ("staticgatewayconfigurations", "podendpoints", "pods", "nodes")
_INSIDE: Final = "ns-static-egress-gateway"
_QUIET: Final = 1.0
"""Seconds without a change: all that follows from what was told has been done."""


class Running:
    """The shipped program in the gateway's namespace, until it is killed or stopped."""

    def __init__(self, gateway: Gateway, kubeconfig: str) -> None:
        settings = Settings(
            node_name=gateway.name,
            kubeconfig=kubeconfig,
            run_dir=f"/run/{gateway.name}",
            resync=3600.0,  # what is mended was heard of, or is a beginning
            verify_targets=[],
        )
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=lambda: gateway.netns.run(self._work), daemon=True)
        self._thread.start()

    async def _run(self) -> None:
        """As a kubelet does: whoever cannot begin is begun again. A process's sockets end with it;
        those of a dead agent here when nobody knows them any more."""
        while True:
            try:
                await main.run(self._settings)
            except OperatorError:
                gc.collect()
                await asyncio.sleep(0.1)

    def _work(self) -> None:
        # Whatever a dead agent's parts make of it is nobody's business.
        with contextlib.suppress(BaseException):
            self._loop.run_until_complete(self._task)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(BaseException):
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(120)
        assert not self._thread.is_alive(), "the agent stops when it is told to"


class Bench:
    """A gateway and a pod, in which one agent follows the other."""

    def __init__(self, world: World, gateway: Gateway, story: Story, effects: Effects) -> None:
        self.world, self.gateway, self.story, self.effects = world, gateway, story, effects
        self.watches = Watches()
        self.pod = world.pod("pod-a")
        self.other = world.pod("pod-b")
        self.seen: Callable[[], str | None] = lambda: None
        self._agent: Running | None = None
        client = story.api.client
        story.pod(self.other)
        self.uid = story.api.call(client.get(PODS.untyped(), "pod-b", "default"))["metadata"]["uid"]
        self.others = attach(story, self.other, listen=20001)

    def withdraw(self) -> None:
        """The other pod's claim, if it is there."""
        with contextlib.suppress(NotFound):
            deleted = self.story.api.client.delete(POD_ENDPOINTS, "pod-b", "default")
            self.story.api.call(deleted)

    def start(self) -> None:
        self._agent = Running(self.gateway, str(self.story.api.kubeconfig))

    def end(self) -> None:
        assert self._agent is not None
        self._agent.end()
        self.effects.arm(0)

    def quiet(self) -> None:
        """Returns when the agent is dead, or has not changed anything for a while."""
        count, since = -1, time.monotonic()
        while not self.effects.dead and time.monotonic() - since < _QUIET:
            if self.effects.count != count:
                count, since = self.effects.count, time.monotonic()
            time.sleep(0.01)

    def trial(
        self, tale: Tale, at: int, again: int = 0, *, how: str = "killed", late: str = ""
    ) -> int:
        """Changes (or calls) that the agent made of what the tale tells; it was killed after change
        ``at``, its successor after ``again`` of its own. ``late``: of this kind of objects it hears
        nothing until it has done all else, or is dead."""
        tale.before(self)
        self.start()
        until(lambda: tale.ready(self), f"{tale.name} is ready", seconds=60)
        self.quiet()
        self.effects.arm(at, how)
        self.watches.late = late
        tale.act(self)
        if at == 0 and not late:
            until(lambda: self.effects.count > 0, "the agent begins")
        self.quiet()
        dead = self.effects.disarm()
        self.watches.late = ""
        made = self.effects.count if how == "killed" else self.effects.calls
        last = self.effects.last
        print(f"{tale.name}, {late} late: {how} {at} and {again}: {made} {last}", flush=True)
        if dead:
            self.end()
            self.effects.arm(again)
            self.start()
            if again:
                self.quiet()
                if self.effects.disarm():
                    self.end()
                    self.start()
        self.effects.arm(0)
        what = f"{tale.name}, {late} late, {how} after {at} ({last}), again {again}"
        until(lambda: tale.over(self), what, seconds=60)
        self.alike(tale, what)
        self.end()
        assert self.world.internet.sources() <= {SECONDARY, OTHER}, what
        return made

    def alike(self, tale: Tale, what: str) -> None:
        if tale.name not in tale.shapes:
            tale.shapes[tale.name] = self.settled()
        first = tale.shapes[tale.name]
        deadline = time.monotonic() + 60
        while first != (shape := _shape(self.gateway)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert shape == first, f"{what}: left {shape - first}, lacks {first - shape}"

    def settled(self) -> Counter[str]:
        """What is left when nothing changes any more: packets pass before the agent is done."""
        shape, before = _shape(self.gateway), None
        while shape != before:
            self.quiet()
            shape, before = _shape(self.gateway), shape
        return shape


class Tale:
    """What the agent hears of while it is killed."""

    name = ""
    shapes: Final[dict[str, Counter[str]]] = {}

    def before(self, bench: Bench) -> None:
        bench.story.listed()

    def ready(self, bench: Bench) -> bool:
        return bench.story.probe() == 200 and bench.seen() == SECONDARY

    def act(self, bench: Bench) -> None:
        raise NotImplementedError

    def over(self, bench: Bench) -> bool:
        raise NotImplementedError


class Served(Tale):
    """A configuration comes: the namespace, links, rules, an interface, its peers."""

    name = "served"

    def before(self, bench: Bench) -> None:
        bench.story.listed(listed=False)

    def ready(self, bench: Bench) -> bool:
        return bench.story.probe() == 503 and not netns.exists(_INSIDE)

    def act(self, bench: Bench) -> None:
        bench.story.listed()

    over = Tale.ready


class Gone(Tale):
    """The last configuration goes, and everything with it."""

    name = "gone"

    def act(self, bench: Bench) -> None:
        bench.story.listed(listed=False)

    def over(self, bench: Bench) -> bool:
        links = bench.gateway.links.links()
        return bench.story.probe() == 503 and not netns.exists(_INSIDE) and "gateway0" not in links


class Joined(Tale):
    """Another pod's claim comes."""

    name = "joined"

    def before(self, bench: Bench) -> None:
        bench.story.listed()
        bench.withdraw()

    def act(self, bench: Bench) -> None:
        bench.story.endpoint(bench.other, bench.uid)

    def over(self, bench: Bench) -> bool:
        return bench.seen() == SECONDARY and bench.others() == SECONDARY


class Left(Joined):
    """And goes."""

    name = "left"

    def before(self, bench: Bench) -> None:
        bench.story.listed()
        bench.story.endpoint(bench.other, bench.uid)

    def ready(self, bench: Bench) -> bool:
        return Joined.over(self, bench)

    def act(self, bench: Bench) -> None:
        bench.withdraw()

    def over(self, bench: Bench) -> bool:
        return bench.seen() == SECONDARY and bench.others() is None


def _shape(gateway: Gateway) -> Counter[str]:
    """Rules, links, routes, without what is another one each time."""
    show = "nft -s list ruleset; ip -o -br link; ip -o addr; ip rule; ip route show table all"
    found = []
    for place in (gateway.name, _INSIDE):
        if netns.exists(place):
            command = ["nsenter", f"--net=/run/netns/{place}", "sh", "-c", show]
            said = subprocess.run(command, capture_output=True, text=True).stdout
            found += _ELEMENTS.sub("", said).splitlines()
    return Counter(filter(None, (" ".join(_VOLATILE.sub("", line).split()) for line in found)))


_VOLATILE: Final = re.compile(
    # A network's route that the kernel made with its address is as good as ours.
    r"@\S+|\bproto \w+|[0-9a-f]{0,4}(?:::?[0-9a-f]+)+\b|^\d+: "
    r"|valid_lft.*|.*\b(?:fe80:|ff00:).*"
)
_ELEMENTS: Final = re.compile(r"elements = \{[^}]*\}")
"""On as many lines as they need. Some of them go with time."""


@contextlib.contextmanager
def benched() -> Iterator[Bench]:
    world, gateway, story = begin()
    world.route_secondary(OTHER, gateway)
    story.secret()
    with Effects(_TOUCHES, _CALLS, exempt=(story.api.client,)).everywhere() as effects:
        bench = Bench(world, gateway, story, effects)
        story.pod(bench.pod)
        bench.seen = attach(story, bench.pod)
        with bench.watches.everywhere():
            yield bench


def killed(tale: Tale) -> None:
    with benched() as bench:
        most = bench.trial(tale, 0)
        draw = random.Random(tale.name)
        numbers = range(draw.randint(1, STEP), most + 1, STEP)
        for number in numbers:
            bench.trial(tale, number)
        for _ in range(3):
            bench.trial(tale, draw.randint(1, most), again=draw.randint(1, 10))
        print(f"{tale.name}: {most} changes, killed after {len(numbers)} of them and 3 pairs")


def misled() -> None:
    """Questions to the API server are lost, or its answers; it is asked twice; its watches are
    late, also those of an agent that dies meanwhile. Some of these trials, all with
    ``KILLS_STEP=1``."""
    draw = random.Random("misled")
    tales = (Served, Gone, Joined, Left)
    calls = [(t, n, how, "") for t in tales for how in _ANSWERS for n in range(1, 5)]
    watches = [(t, n, "killed", late) for t in tales for late in _WATCHED for n in (0, 3)]
    trials = draw.sample(calls, k=len(calls)) + draw.sample(watches, k=len(watches))
    with benched() as bench:
        for tale in tales if STEP == 1 else ():
            bench.trial(tale(), 0)
        for kind, number, how, late in trials[:: 1 if STEP == 1 else 20]:
            bench.trial(kind(), number, how=how, late=late)


@boxed
def test_killed_while_a_configuration_comes() -> None:
    killed(Served())


@boxed
def test_killed_while_the_last_configuration_goes() -> None:
    killed(Gone())


@boxed
def test_killed_while_a_pod_joins() -> None:
    killed(Joined())


@boxed
def test_killed_while_a_pod_leaves() -> None:
    killed(Left())


@boxed
def test_told_late_twice_or_not_at_all() -> None:
    misled()
