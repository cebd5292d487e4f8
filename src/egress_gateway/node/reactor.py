"""From events to work: which sandboxes are to be looked at, and how soon. Nothing here waits."""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec.structs import replace

from egress_gateway.api.types import (
    GatewayStatus,
    PodEndpoint,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.kube.resources import Key, Pod
from egress_gateway.node.attachment.choose import BalancerAddress, GatewayNode, same_place
from egress_gateway.node.cluster.knowledge import annotation
from egress_gateway.node.lifecycle import AVOID_SECONDS, FULL_PASS_AFTER
from egress_gateway.node.liveness.health import State
from egress_gateway.node.liveness.pathhealth import TunnelPath
from egress_gateway.node.liveness.paths import Paths, path_of
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.liveness.schedule import SILENCE, Hearing
from egress_gateway.node.parts import Parts, UsesParts
from egress_gateway.node.sandboxes.sandbox import Sandbox

_ASK_AGAIN_SECONDS: Final = 5.0


class Reactor(UsesParts):
    """Callbacks, each of which adds keys to queues."""

    def __init__(self, parts: Parts, hearing: Hearing, prober: Prober, paths: Paths) -> None:
        super().__init__(parts)
        self._hearing = hearing
        self._prober = prober
        self._paths = paths

    def subscribe(self) -> None:
        """From now on it hears what the API server and gateways tell."""
        self._knowledge.configurations.on_change(self._on_configuration)
        self._knowledge.pods.on_change(self._on_pod)
        self._knowledge.statuses.on_change(self._on_status)
        self._endpoints.on_deleted(self._on_endpoint_deleted)
        self._prober.on_change(self._on_gateway)

    def _on_configuration(
        self,
        key: Key,
        old: StaticGatewayConfiguration | None,
        new: StaticGatewayConfiguration | None,
    ) -> None:
        if old and new and _same_for_pods(old, new):
            return
        for sandbox in self._sandboxes:
            state = sandbox.attachment
            if (state.namespace, state.configuration.name) == key:
                self._queues.routine.add(sandbox.attachment.id)

    def _on_pod(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if new and new.spec.host_network:
            if annotation(new) and not new.finished:
                self._teller.host_network(new)
            return
        attached = [sandbox.attachment.id for sandbox in self._sandboxes.of_pod(key)]
        for sandbox_id in attached:
            self._queues.routine.add(sandbox_id)
        # Who is new to us runs already, if we are new ourselves.
        runs = old is None and new is not None and new.has_network and not attached
        if new and ((old and _asks_anew(old, new)) or (runs and annotation(new))):
            found = self._records.of(key)
            for sandbox_id in found:
                self._queues.routine.add(sandbox_id)
            # Of who runs without a record, housekeeping makes one.
            if old and not found:
                self._queues.unrecorded.add(str(key))

    def _on_endpoint_deleted(self, endpoint: PodEndpoint) -> None:
        """Gateways have forgotten the pod's session with it. WireGuard notices that after 15 s of
        traffic, and echoes ask one pod of a path at a time."""
        for sandbox in self._sandboxes.of_pod(Key(endpoint.metadata.namespace, endpoint.pod_name)):
            state = sandbox.attachment
            if endpoint.spec.pod_public_key == state.public_key:
                self.on_forgotten(sandbox)
            else:
                self._queues.routine.add(state.id)

    def on_forgotten(self, sandbox: Sandbox) -> None:
        """Its gateway has no session with the pod: a new one begins, in its turn."""
        sandbox.forgotten = True
        self._queues.moves.add(sandbox.attachment.id)

    def _on_gateway(self, address: str, old: State, new: State) -> None:
        """Its pods leave a gateway that is lost. One that is back takes only pods that had to go
        to the load balancer: all others would lose connections for nothing. One that answers again
        takes pods that nobody serves."""
        for sandbox in self._sandboxes:
            state = sandbox.attachment
            listed = address in {g.address for g in state.configuration.gateways}
            to = state.active.to if state.active else None
            returns = new == "alive" and listed and isinstance(to, BalancerAddress)
            if old == new:
                returns = listed and not state.verified
            if returns or (new != old and new == "lost" and to and to.address == address):
                self._queues.moves.add(sandbox.attachment.id)

    def _on_status(self, key: Key, old: GatewayStatus | None, new: GatewayStatus | None) -> None:
        """A gateway asks its pods to leave, or has stopped asking."""
        if (old.spec.vetoes if old else []) == (new.spec.vetoes if new else []):
            return
        for sandbox in self._sandboxes:
            if key.name in {g.name for g in sandbox.attachment.configuration.gateways}:
                self._queues.moves.add(sandbox.attachment.id)

    def on_verified(self, sandbox: Sandbox) -> None:
        """The sandbox's active tunnel has had a handshake."""
        state, now = sandbox.attachment, asyncio.get_running_loop().time()
        if state.active is not None:
            self._hearing.complete(state.id, path_of(state.active), now)
            self._prober.proven(state.active.address)
            self._paths.forgive(path_of(state.active))
        # The next pass clears the keepalive that made the tunnel speak.
        self._queues.after_moves.add_after(state.id, FULL_PASS_AFTER)

    def on_silence(self, sandbox: Sandbox) -> None:
        """It has had none in time: the pod leaves the gateway, unless others' handshakes show it
        busy. Those by the load balancer's address may be with another gateway."""
        state, now = sandbox.attachment, asyncio.get_running_loop().time()
        active = state.active
        one = active is not None and isinstance(active.to, GatewayNode)
        if active is None or (one and self._hearing.bears(state.id, path_of(active), now)):
            return
        sandbox.avoid(active.address, now + AVOID_SECONDS)
        self._queues.moves.add(state.id)

    def on_joined(self, sandbox: Sandbox) -> None:
        """The next tunnel is verified: the pod may move to it."""
        self._queues.moves.add(sandbox.attachment.id)

    def on_join_silence(self, sandbox: Sandbox) -> None:
        """The next tunnel has had no handshake in time."""
        state = sandbox.attachment
        joining, active = state.joining, state.active
        if joining and active and same_place(joining.to, active.to):
            # The gateway works, but not yet with its next key pair: the pod stays, and asks again.
            self._queues.moves.add_after(state.id, _ASK_AGAIN_SECONDS)
        elif joining is not None:
            now = asyncio.get_running_loop().time()
            sandbox.avoid(joining.address, now + AVOID_SECONDS)
            self._queues.moves.add(state.id)

    def on_path_lost(self, path: TunnelPath) -> None:
        """All pods whose active tunnel goes that way move, to the load balancer's address if there
        is nothing better."""
        self._teller.way_lost(path.address, path.port)
        until = asyncio.get_running_loop().time() + SILENCE
        for sandbox in self._sandboxes:
            active = sandbox.attachment.active
            if active is not None and path_of(active) == path:
                sandbox.avoid(path.address, until)
                self._queues.moves.add(sandbox.attachment.id)


def _same_for_pods(old: StaticGatewayConfiguration, new: StaticGatewayConfiguration) -> bool:
    """Whether only what is counted and said of a configuration has changed."""
    was, now = old.metadata, new.metadata
    lives = (was.uid, was.deletion_timestamp) == (now.uid, now.deletion_timestamp)
    return lives and old.spec == new.spec and _bare(old) == _bare(new)


def _bare(sgc: StaticGatewayConfiguration) -> StaticGatewayConfigurationStatus:
    gateways = [replace(gateway, seen_ip="", seen_ip_v6="") for gateway in sgc.status.gateways]
    return replace(sgc.status, gateways=gateways, pods=None, conditions=[], observed_generation=0)


def _asks_anew(old: Pod, new: Pod) -> bool:
    """A pod that gets a network without our knowing came to the node while somebody had rewritten
    the CNI chain. Its init containers may run for long before it says that it runs."""
    joined = new.has_network and (not old.has_network or old.ips != new.ips)
    return (joined and bool(annotation(new))) or annotation(old) != annotation(new)
