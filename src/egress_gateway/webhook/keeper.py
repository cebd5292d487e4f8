"""Keeps the webhook's certificate in its Secret, and its registration with the API server.

Level-triggered, and the same in every replica: the Secret is written on condition that it has not
changed, so that one of them makes a certificate and the others take it; the registration is applied
by all, to the same words. The chart makes both objects, empty, so that no right to create any is
needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from egress_gateway.api import names
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, Conflict, NotFound
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import SECRETS, Namespace, Resource, Secret, Untyped, v1
from egress_gateway.webhook import certificates, registration
from egress_gateway.webhook.certificates import Generation
from egress_gateway.webhook.settings import Settings

log = logging.getLogger(__name__)

REGISTRATIONS: Final[Resource[Untyped]] = v1(
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    dict,
    group="admissionregistration.k8s.io",
    namespaced=False,
)
_AGAIN: Final = 1.0
"""Seconds after a failure or a lost race."""


class Keeper:
    """``problem`` says why we are not reachable as we should be; None when we are. ``certified``
    is set once ``on_certificate`` has been told the first one."""

    def __init__(
        self,
        client: Client,
        namespaces: Cache[Namespace],
        settings: Settings,
        *,
        on_certificate: Callable[[Generation], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._namespaces = namespaces
        self._settings = settings
        self._on_certificate = on_certificate
        self._clock = clock
        self._served: Generation | None = None
        self._changed = asyncio.Event()
        self.certified = asyncio.Event()
        self.problem: str | None = "the webhook is not registered with the API server yet"
        namespaces.on_change(self._on_namespace)

    async def run(self) -> None:
        """Until cancelled."""
        await self._namespaces.synced()
        while True:
            self._changed.clear()
            pause = self._settings.interval if await self.step() else _AGAIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def step(self) -> bool:
        """One look; whether all is as it should be. What failed is in ``problem``."""
        before = self.problem
        try:
            generations = await self._generations()
            if generations is None:
                return False
            self._serve(generations)
            await self._register(generations)
            self.problem = None
        except ApiError as error:
            self.problem = str(error)
            if before != self.problem:
                log.warning("cannot register webhook", extra={"error": self.problem})
        return self.problem is None

    async def _generations(self) -> list[Generation] | None:
        """The certificates that there should be, written if they were not; None if another
        replica was faster."""
        name, namespace = self._settings.name, self._settings.system_namespace
        try:
            secret = await self._client.get(SECRETS, name, namespace)
        except NotFound as error:
            raise _missing(error, f"Secret {namespace}/{name}") from error
        outside = urlsplit(self._settings.url).hostname
        hosts = [f"{name}.{namespace}.svc", *([outside] if outside else [])]
        now, validity = self._clock(), self._settings.certificate_validity
        wanted, due = certificates.plan(
            certificates.decode(secret.data), names=hosts, now=now, validity=validity
        )
        if due:
            made = await asyncio.to_thread(certificates.make, hosts, now=now, validity=validity)
            wanted.append(made)
        return wanted if await self._write(secret, wanted) else None

    async def _write(self, secret: Secret, wanted: list[Generation]) -> bool:
        data: dict[str, str] = {}
        for generation in wanted:
            data |= certificates.encode(generation)
        if data == secret.data:
            return True
        gone: dict[str, None] = {key: None for key in secret.data if key not in data}
        meta = secret.metadata
        patch = {"metadata": {"resourceVersion": meta.resource_version}, "data": data | gone}
        try:
            await self._client.merge_patch(SECRETS, meta.name, patch, meta.namespace)
        except Conflict:
            return False
        log.info("changed certificates", extra={"generations": len(wanted)})
        return True

    def _serve(self, generations: list[Generation]) -> None:
        chosen = certificates.serving(generations, now=self._clock())
        if chosen is not None and chosen != self._served:
            self._on_certificate(chosen)
            self._served = chosen
            self.certified.set()

    async def _register(self, generations: list[Generation]) -> None:
        name, system = self._settings.configuration, self._settings.system_namespace
        client = registration.client(
            service=self._settings.name,
            namespace=system,
            url=self._settings.url,
            trust=certificates.trust(generations),
        )
        wanted = registration.webhooks(client, system=system, defaulted=self._defaulted())
        try:
            live = await self._client.get(REGISTRATIONS, name)
        except NotFound as error:
            raise _missing(error, f"{REGISTRATIONS.kind} {name}") from error
        if registration.covers(live.get("webhooks"), wanted):
            return
        await self._client.apply(REGISTRATIONS, {"metadata": {"name": name}, "webhooks": wanted})
        log.info("registered webhook", extra={"namespaces": len(self._defaulted())})

    def _defaulted(self) -> list[str]:
        return [n.metadata.name for n in self._namespaces.values() if annotation(n)]

    def _on_namespace(self, key: object, old: Namespace | None, new: Namespace | None) -> None:
        if annotation(old) != annotation(new):
            self._changed.set()


def annotation(namespace: Namespace | None) -> str:
    """The configuration that the Namespace's pods use by default; "" if there is none."""
    return namespace.metadata.annotations.get(names.POD_ANNOTATION, "") if namespace else ""


def _missing(error: ApiError, what: str) -> ApiError:
    return NotFound(error.status, error.reason, f"{what} is missing; install the chart again")
