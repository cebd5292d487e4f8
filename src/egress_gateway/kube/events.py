"""Kubernetes Events: what a person sees in ``kubectl describe``."""

from __future__ import annotations

from typing import Literal

from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import Reference


class Recorder:
    """``event()`` never blocks and never raises; ``run()`` (in a task) writes.

    Repeats of one Event are counted rather than written anew; what exceeds the bound is dropped
    and counted.
    """

    def __init__(self, client: Client, component: str, *, instance: str = "") -> None: ...

    def event(
        self,
        target: Reference,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
    ) -> None:
        """``target``: ``resource.reference(obj)``. ``reason`` is CamelCase."""
        raise NotImplementedError

    async def run(self) -> None:
        """Writes until cancelled, then writes what is left for at most two seconds."""
        raise NotImplementedError
