"""What the parts of a pod ask of the pod itself."""

from __future__ import annotations

from typing import Any, Protocol

from egress_gateway_lab.runtime.nodes.node import Mount, Node

Object = dict[str, Any]


class Surroundings(Protocol):
    """What a container and its probes ask of its pod."""

    node: Node
    pod: Object
    netns: str | None
    hostname: str
    files: dict[str, str]
    base_env: dict[str, str]
    host_ip: str
    pod_ips: list[str]

    def changed(self) -> None: ...

    def event(self, kind: str, reason: str, message: str) -> None: ...

    def mounts(self, container: Object) -> tuple[Mount, ...]: ...

    async def sources(self, container: Object) -> dict[tuple[str, str], dict[str, str]]: ...

    async def address(self, host: str | None) -> str: ...
