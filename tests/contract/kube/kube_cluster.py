"""A cluster to hold the client against: the lab's API server, a real one, or any other.

Each test runs on an API server of the lab that is started for it and, with the mark ``kube``, on
a real control plane (``make test-kube``). ``EGRESS_GATEWAY_TEST_KUBECONFIG`` names a kubeconfig of
a cluster that may be written to, which then takes the first one's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from egress_gateway.api.manifests import crd_files
from egress_gateway.kube import config, errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.config import ClusterAccess
from egress_gateway.kube.resources import (
    GATEWAY_STATUSES,
    NAMESPACES,
    POD_ENDPOINTS,
    SGCS,
    Resource,
    Untyped,
    v1,
)
from egress_gateway_lab.pki import issue
from egress_gateway_lab.realcluster.control_plane import ADMINISTRATOR, ControlPlane
from tests.kube.real import wipe

CRDS: Resource[Untyped] = v1(
    "customresourcedefinitions",
    "CustomResourceDefinition",
    dict,
    group="apiextensions.k8s.io",
    namespaced=False,
)
SERVICE_ACCOUNTS: Resource[Untyped] = v1("serviceaccounts", "ServiceAccount", dict)


@dataclass(frozen=True)
class Cluster:
    """A cluster with our CRDs, a namespace of this test, and its administrator's client."""

    access: ClusterAccess
    client: Client
    namespace: str
    trusting: ssl.SSLContext
    """Without the administrator's certificate, if that is how it is known."""

    async def service_account(self, name: str) -> ClusterAccess:
        """Access as a ServiceAccount of the namespace that may do nothing yet."""
        meta = {"name": name, "namespace": self.namespace}
        await self.client.apply(SERVICE_ACCOUNTS, {"metadata": meta})
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = SERVICE_ACCOUNTS.path(self.namespace, name, "token")
        answer = yaml.safe_load(await self.client.request("POST", path, body=body))
        token = answer["status"]["token"]
        return ClusterAccess(
            server=self.access.server,
            ssl_context=self.trusting,
            token=lambda fresh: str(token),
        )


@contextlib.asynccontextmanager
async def cluster(
    folder: Path, plane: ControlPlane | None = None, **server: Any
) -> AsyncIterator[Cluster]:
    """``folder`` is for certificates and the kubeconfig; ``server`` goes to the lab's server,
    which serves unless there is a real ``plane``."""
    external = os.environ.get("EGRESS_GATEWAY_TEST_KUBECONFIG")
    async with contextlib.AsyncExitStack() as stack:
        if plane is not None:
            await wipe(plane)  # policies of other tests among them
            path = folder / "kubeconfig"
            path.write_bytes(plane.kubeconfig(*ADMINISTRATOR))
            access = config.load(str(path))
        elif external:
            access = config.load(external)
        else:
            access = await stack.enter_async_context(_embedded(folder, **server))
        client = await stack.enter_async_context(Client(access, "contract-test", timeout=60.0))
        for path in crd_files():
            await client.apply(CRDS, yaml.safe_load(path.read_text()))
        for resource in (SGCS, POD_ENDPOINTS, GATEWAY_STATUSES):
            await served(client, resource)
        name = f"kube-{secrets.token_hex(4)}"
        await client.apply(NAMESPACES.untyped(), {"metadata": {"name": name}})
        try:
            trusting = access.ssl_context if plane is None else plane.tls("")
            assert trusting is not None
            yield Cluster(access, client, name, trusting)
        finally:
            with contextlib.suppress(errors.ApiError):
                await client.delete(NAMESPACES, name)


async def served(client: Client, resource: Resource[Any]) -> None:
    """A real server opens a definition's paths a moment after it has taken it."""
    async with asyncio.timeout(180):
        while True:
            try:
                await client.list(resource)
                return
            except errors.NotFound:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _embedded(folder: Path, **options: Any) -> AsyncIterator[ClusterAccess]:
    from egress_gateway_lab.apiserver.server import ApiServer

    identity = issue(addresses=["127.0.0.1"], names=[])
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(
        sockets=[listener],
        tls=identity.context(folder),
        ca_pem=identity.ca.decode(),
        services=ipaddress.IPv4Network("10.0.0.0/16"),
        **options,
    )
    await server.start()
    try:
        path = folder / "kubeconfig"
        path.write_bytes(server.kubeconfig(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        yield config.load(str(path))
    finally:
        await server.stop()
        listener.close()
