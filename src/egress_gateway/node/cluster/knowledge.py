"""What the node agent knows of configurations and pods, from caches that outlive the API server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from egress_gateway.api import names
from egress_gateway.api.types import GatewayStatus, StaticGatewayConfiguration
from egress_gateway.cni.protocol import Call
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Key, Pod
from egress_gateway.node.attachment.model import (
    Attachment,
    NotUsable,
    PodConfiguration,
    ended,
    held_back,
    usable_configuration,
)
from egress_gateway.node.attachment.vetoes import vetoes

_LOOK_SECONDS: Final = 0.5


class Knowledge:
    """``configurations`` of the whole cluster, the ``statuses`` of gateways that ask to be left,
    ``pods`` of this node."""

    def __init__(
        self,
        configurations: Cache[StaticGatewayConfiguration],
        pods: Cache[Pod],
        statuses: Cache[GatewayStatus],
    ) -> None:
        self.configurations = configurations
        self.pods = pods
        self.statuses = statuses
        self._changed = asyncio.Event()
        self._usable: dict[str, tuple[StaticGatewayConfiguration | None, PodConfiguration]] = {}
        configurations.on_change(self._on_change)
        pods.on_change(self._on_change)

    async def usable(self, namespace: str, name: str) -> PodConfiguration:
        """The configuration, as soon as pods can use it."""
        while True:
            changed = self._changed
            try:
                return self.usable_now(namespace, name)
            except NotUsable:
                await changed.wait()

    def usable_now(self, namespace: str, name: str) -> PodConfiguration:
        """Raises ``NotUsable`` saying why."""
        key = f"{namespace}/{name}"
        found = self.configurations.get(namespace, name)
        if found is None and not self.configurations.is_synced:
            raise NotUsable(
                f"StaticGatewayConfiguration {key} is not known yet: the node agent has not "
                "heard from the Kubernetes API since it started"
            )
        known = self._usable.get(key)
        if known is None or known[0] is not found:
            # One reading of an object serves all pods that it concerns.
            known = self._usable[key] = found, usable_configuration(found, key)
        return known[1]

    def for_running(
        self, attachment: Attachment | None, namespace: str, name: str
    ) -> tuple[PodConfiguration, str]:
        """What a running pod follows, and what is wrong with it ("" if nothing): the configuration
        if it is usable, else its last known state, without gateways once it is deleted, else one
        that holds everything back. Missing knowledge never releases a running pod."""
        try:
            return self.usable_now(namespace, name), ""
        except NotUsable as error:
            amiss = str(error) if self.configurations.is_synced else ""
        if attachment and attachment.configuration.name == name:
            last = attachment.configuration
            return ended(last) if self._deleted(namespace, name) else last, amiss
        return held_back(name), amiss

    def _deleted(self, namespace: str, name: str) -> bool:
        """Whether the configuration is known to be gone, or about to be."""
        found = self.configurations.get(namespace, name)
        if found is None:
            return self.configurations.is_synced
        return found.metadata.deletion_timestamp is not None

    def addresses(self, namespace: str, name: str) -> dict[str, tuple[str, str]]:
        """What each gateway of the configuration sends from, IPv4 and IPv6, by its node's name."""
        found = self.configurations.get(namespace, name)
        return {
            g.node: (g.public_ip or g.secondary_ip, g.public_ip_v6)
            for g in (found.status.gateways if found else ())
        }

    def vetoes(self, namespace: str, name: str) -> dict[str, bool]:
        """Gateways that ask this configuration's pods to leave, and whether they still work."""
        return vetoes(self.statuses.values(), f"{namespace}/{name}")

    def may_start_held(self, namespace: str, name: str) -> bool:
        """Whether the configuration lets pods start before they have a tunnel."""
        found = self.configurations.get(namespace, name)
        return found is not None and found.spec.start_policy == "HeldBack"

    async def heard(self) -> None:
        """Returns when the node's pods have been listed."""
        while not self.pods.is_synced:
            changed = self._changed
            with contextlib.suppress(TimeoutError):  # an empty list changes nothing
                async with asyncio.timeout(_LOOK_SECONDS):
                    await changed.wait()

    async def uid(self, namespace: str, pod: str) -> str:
        """For runtimes that do not say it: the UID of the pod, as soon as the API has it."""
        while True:
            changed = self._changed
            found = self.pods.get(namespace, pod)
            if found is not None:
                return found.metadata.uid
            await changed.wait()

    def asking(self) -> set[str]:
        """UIDs of the node's pods that name a configuration and are not over."""
        return {
            pod.metadata.uid
            for pod in self.pods.values()
            if annotation(pod) and not pod.finished and not pod.spec.host_network
        }

    def pod_of(self, record: Call | None) -> Pod | None:
        """The record's Pod; not a namesake that came after it."""
        if record is None:
            return None
        namespace, name, uid = record.pod
        pod = self.pods.get(namespace, name)
        return pod if pod and (not uid or pod.metadata.uid == uid) else None

    def _on_change(self, key: Key, old: object, new: object) -> None:
        self._usable.pop(str(key), None)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def annotation(pod: Pod | None) -> str:
    """The configuration that the pod names; "" if it names none."""
    return names.asked_configuration(pod.metadata.annotations) if pod else ""
