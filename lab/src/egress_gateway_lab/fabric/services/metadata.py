"""The instance metadata service at 169.254.169.254: who asks is told by the packet's source.

https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web

from egress_gateway_lab.fabric.network import Nic
from egress_gateway_lab.protocols import Resource, Resources

TokenSource = Callable[[str, str, str | None], Awaitable[Mapping[str, Any]]]
"""(machine id, resource, client id or None) → the token endpoint's JSON answer. Raises
``PermissionError`` with the reason when the machine has no such identity."""


class MetadataServer:
    """HTTP application of the service. ``nic_of`` finds the NIC behind a source address."""

    def __init__(
        self,
        resources: Resources,
        nic_of: Callable[[IPv4Address], Nic | None],
        token: TokenSource | None,
    ) -> None:
        self._resources = resources
        self._nic_of = nic_of
        self._token = token
        self._runner: web.AppRunner | None = None

    async def start(self, address: IPv4Address, port: int = 80) -> None:
        app = web.Application(middlewares=[_require_header])
        app.router.add_get("/metadata/instance", self._instance)
        app.router.add_get("/metadata/instance/{path:.*}", self._instance)
        app.router.add_get("/metadata/identity/oauth2/token", self._identity)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, str(address), port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _caller(self, request: web.Request) -> Nic:
        nic = self._nic_of(IPv4Address(request.remote or "0.0.0.0"))
        if nic is None:
            raise _error(404, "not found", f"no machine has the address {request.remote}")
        return nic

    async def _instance(self, request: web.Request) -> web.Response:
        nic = self._caller(request)
        machine = self._resources.get(nic.machine_id) if nic.machine_id else None
        found: Any = {"compute": _compute(nic, machine), "network": _network(nic)}
        for part in filter(None, request.match_info.get("path", "").split("/")):
            found = _step(found, part)
            if found is None:
                raise _error(404, "not found", f"no {request.path}")
        if request.query.get("format") == "text" and isinstance(found, str):
            return web.Response(text=found)
        return web.json_response(found)

    async def _identity(self, request: web.Request) -> web.Response:
        nic = self._caller(request)
        resource = request.query.get("resource")
        if not resource:
            raise _error(400, "invalid_request", "Required query variable 'resource' is missing")
        if self._token is None:
            raise _error(400, "invalid_request", "Identity not found")
        try:
            answer = await self._token(nic.machine_id, resource, request.query.get("client_id"))
        except PermissionError as error:
            raise _error(400, "invalid_request", str(error)) from error
        return web.json_response(dict(answer))


@web.middleware
async def _require_header(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    # Keeps out requests that a server was tricked into making, as Azure does.
    if (
        request.headers.get("Metadata", "").lower() != "true"
        or "X-Forwarded-For" in request.headers
    ):
        raise _error(400, "Bad request. Required metadata header not specified", "")
    return await handler(request)


def _error(status: int, error: str, description: str) -> web.HTTPException:
    kind = {400: web.HTTPBadRequest, 404: web.HTTPNotFound}[status]
    body = web.json_response({"error": error, "error_description": description}).text or ""
    return kind(text=body, content_type="application/json")


def _step(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    return None


def _compute(nic: Nic, machine: Resource | None) -> dict[str, Any]:
    parts = nic.machine_id.split("/")
    names = dict(zip(parts[1::2], parts[2::2], strict=False))
    scale_set = names.get("virtualmachinescalesets", "")
    return {
        "name": (machine or {}).get("name", names.get("virtualmachines", "")),
        "location": (machine or {}).get("location", ""),
        "resourceId": (machine or {}).get("id", nic.machine_id),
        "resourceGroupName": names.get("resourcegroups", ""),
        "subscriptionId": names.get("subscriptions", ""),
        "vmScaleSetName": scale_set,
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "tagsList": [
            {"name": k, "value": v} for k, v in ((machine or {}).get("tags") or {}).items()
        ],
    }


def _network(nic: Nic) -> dict[str, Any]:
    addresses = [
        {
            "privateIpAddress": str(config.private),
            "publicIpAddress": str(config.public) if config.public else "",
        }
        for config in nic.ip_configs
    ]
    subnet = {"address": str(nic.subnet.network_address), "prefix": str(nic.subnet.prefixlen)}
    return {
        "interface": [
            {
                "ipv4": {"ipAddress": addresses, "subnet": [subnet]},
                "ipv6": {"ipAddress": []},
                "macAddress": (nic.mac or "").replace(":", "").upper(),
            }
        ]
    }
