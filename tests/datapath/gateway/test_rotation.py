"""A configuration changes its key pair under open connections: every step, in packets."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

from egress_gateway.api import keys
from egress_gateway.datapath.gateway.served import ServedConfiguration, WireGuardServer, zones
from egress_gateway.datapath.pod.model import PodDesired
from tests.datapath.box import boxed
from tests.datapath.test_connections import udp
from tests.datapath.test_packets import SECONDARIES, peers_of
from tests.datapath.topology import INTERNET, Gateway, Pod, World, configuration, until

OLD, NEW = 6000, 6001
_UNANSWERED = 50
"""Datagrams on their way at most: a socket's buffer holds some 270, and loses what comes then."""


class Talk:
    """A stream that asks and is answered all the time, and datagrams every 5 ms, each numbered."""

    def __init__(self, pod: Pod) -> None:
        self._stream = pod.connect(INTERNET)
        self.address = self._stream.recv(100).decode().strip()
        self._datagrams = udp(pod.place)
        self._datagrams.bind((str(pod.address), 4000))
        self._stop = threading.Event()
        self._all_sent = threading.Event()
        self.asked = self.answered = self.sent = self.heard = 0
        self.wrong: set[str] = set()
        self.broken: list[str] = []
        self._speaker, self._thrower, self._catcher = (
            threading.Thread(target=work, daemon=True)
            for work in (self._speak, self._throw, self._catch)
        )
        for thread in (self._speaker, self._thrower, self._catcher):
            thread.start()

    def _speak(self) -> None:
        try:
            while not self._stop.is_set():
                said = f"{self.asked:08d}".encode() * 400
                self._stream.sendall(said)
                self.asked += 1
                heard = b""
                while len(heard) < len(said):
                    heard += self._stream.recv(65536)
                assert heard == said
                self.answered += 1
        except (OSError, AssertionError) as error:
            self.broken.append(repr(error))

    def _throw(self) -> None:
        while not self._stop.is_set():
            if self.sent - self.heard < _UNANSWERED:
                self._datagrams.sendto(b"x", (INTERNET, 7))
                self.sent += 1
            time.sleep(0.005)

    def _catch(self) -> None:
        with contextlib.suppress(TimeoutError):
            while not self._all_sent.is_set() or self.heard < self.sent:
                address = self._datagrams.recv(100).decode()
                self.heard += 1
                if address != SECONDARIES[0]:
                    self.wrong.add(address)

    def goes_on(self) -> None:
        """Returns when both have got further."""
        asked, heard = self.answered + 2, self.heard + 2
        until(lambda: self.answered > asked and self.heard > heard, "both connections go on")

    def end(self) -> None:
        self._stop.set()
        self._speaker.join(60)
        self._thrower.join(60)
        # One more, whose answer ends the wait for answers: only now is it known how many come.
        self.sent += 1
        self._all_sent.set()
        self._datagrams.sendto(b"x", (INTERNET, 7))
        self._catcher.join(120)
        self._stream.close()
        self._datagrams.close()
        assert self.broken == []
        assert self.answered == self.asked > 0
        assert self.heard == self.sent > 0, f"{self.sent} datagrams, {self.heard} answers"
        assert self.wrong == set()


@contextlib.contextmanager
def talking(pod: Pod) -> Iterator[Talk]:
    talk = Talk(pod)
    yield talk
    talk.end()


def serve(gateway: Gateway, pod: Pod, wanted: ServedConfiguration) -> ServedConfiguration:
    """As the agent does it: zones are those that there are."""
    (zoned,) = zones([wanted], gateway.side.zones())
    gateway.side.converge(gateway.desired(zoned))
    for server in zoned.servers:
        gateway.side.sync_peers(server, peers_of(pod))
    return zoned


@boxed
def test_connections_go_on_through_every_step_and_leave_from_the_same_address() -> None:
    world = World()
    gateway, pod = world.gateways[0], world.pod("pod-a")
    world.route_secondary(SECONDARIES[0], gateway)
    old, new = keys.generate(), keys.generate()
    before = configuration(old, SECONDARIES[0], port=OLD)
    after = configuration(new, SECONDARIES[0], port=NEW)
    first, second = WireGuardServer(port=OLD, private_key=old.private), after.servers[0]
    zone = serve(gateway, pod, before).in_zone
    here = str(gateway.primary)
    at_old = pod.desired(old.public, here, port=OLD)
    pod.side.converge(at_old)
    pod.handshake(at_old)
    at_new = pod.desired(new.public, here, port=NEW, listen=20001)
    assert at_old.active is not None
    assert at_new.active is not None
    with talking(pod) as talk:
        talk.goes_on()
        serve(gateway, pod, dataclasses.replace(before, second=second))
        talk.goes_on()
        # A pod that is late is answered by what it uses, whatever the profile is.
        serve(gateway, pod, dataclasses.replace(after, second=first))
        talk.goes_on()
        serve(gateway, pod, dataclasses.replace(before, second=second))
        both = dataclasses.replace(
            at_old,
            standby=dataclasses.replace(at_new.active, name="egw-second", link="wg1"),
        )
        pod.side.converge(both)
        until(lambda: _shaken(pod, both, standby=True), "handshake with the next server")
        talk.goes_on()
        moved = dataclasses.replace(
            both, active=both.standby, standby=both.active, standby_sends=False
        )
        pod.side.converge(moved)
        talk.goes_on()
        gateway.restart_agent()
        serve(gateway, pod, dataclasses.replace(after, second=first))
        talk.goes_on()
        serve(gateway, pod, dataclasses.replace(after, second=first, second_answers=False))
        talk.goes_on()
        pod.side.converge(dataclasses.replace(moved, standby=None, standby_sends=True))
        talk.goes_on()
        assert serve(gateway, pod, after).in_zone == zone
        talk.goes_on()
    assert gateway.side.serving() == {NEW}
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_who_only_listens_is_reached_through_the_server_that_stays() -> None:
    """Nothing of the pod's tells the gateway that its connection has moved."""
    world = World()
    gateway, pod = world.gateways[0], world.pod("pod-a")
    world.route_secondary(SECONDARIES[0], gateway)
    old, new = keys.generate(), keys.generate()
    before = configuration(old, SECONDARIES[0], port=OLD)
    after = configuration(new, SECONDARIES[0], port=NEW)
    serve(gateway, pod, before)
    here = str(gateway.primary)
    at_old = pod.desired(old.public, here, port=OLD)
    pod.side.converge(at_old)
    pod.handshake(at_old)
    at_new = pod.desired(new.public, here, port=NEW, listen=20001)
    assert at_new.active is not None
    with udp(world.internet) as server, udp(pod.place) as client:
        server.bind((INTERNET, 9))
        client.sendto(b"begin", (INTERNET, 9))
        _, peer = server.recvfrom(100)

        def hears(word: bytes) -> bool:
            server.sendto(word, peer)
            return client.recv(100) == word

        serve(gateway, pod, dataclasses.replace(before, second=after.servers[0]))
        both = dataclasses.replace(
            at_old,
            standby=dataclasses.replace(at_new.active, name="egw-second", link="wg1"),
        )
        pod.side.converge(both)
        until(lambda: _shaken(pod, both, standby=True), "handshake with the next server")
        moved = dataclasses.replace(
            both, active=both.standby, standby=both.active, standby_sends=False
        )
        # Strict checks of the reverse path: the way there is another one by now.
        for link in ("all", "wg0", "wg1"):
            pod.place.sysctl(f"net/ipv4/conf/{link}/rp_filter", "1")
        pod.side.converge(moved)
        assert hears(b"by the former server")
        closing = dataclasses.replace(after, second=before.servers[0], second_answers=False)
        serve(gateway, pod, closing)
        assert hears(b"by the one that stays")
        pod.side.converge(dataclasses.replace(moved, standby=None, standby_sends=True))
        assert hears(b"although the former one is still there")
        serve(gateway, pod, after)
        assert hears(b"without the former one")
        assert peer[0] == SECONDARIES[0]


@boxed
def test_a_new_configuration_on_the_port_that_became_free_has_a_zone_of_its_own() -> None:
    world = World()
    gateway, pod = world.gateways[0], world.pod("pod-a")
    rotated = configuration(keys.generate(), SECONDARIES[0], port=OLD)
    serve(gateway, pod, rotated)
    rotated = dataclasses.replace(rotated, port=NEW)
    newcomer = configuration(keys.generate(), SECONDARIES[1], port=OLD)
    found = zones([newcomer, rotated], gateway.side.zones())
    assert [c.in_zone for c in found] == [1, OLD]
    gateway.side.converge(gateway.desired(*found))
    assert zones([rotated, newcomer], gateway.new_side().zones()) == found[::-1]


def _shaken(pod: Pod, desired: PodDesired, *, standby: bool) -> bool:
    status = pod.side.status(desired, standby=standby)
    return bool(status and any(peer.last_handshake for peer in status.peers.values()))
