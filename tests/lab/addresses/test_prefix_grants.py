"""``strictPrefixes`` and ``prefixShare`` in a whole system, with packets of those it cuts off and
those it must not.

The administrator turns both on while tenants work; nobody who was there is cut off.
"""

from __future__ import annotations

import ipaddress
import shlex
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import POOL, configured
from tests.lab.test_bad_input import remove, said
from tests.lab.test_promises import WHATSMYIP

pytestmark = pytest.mark.root
_SETTINGS = {"EGRESS_GATEWAY_STRICT_PREFIXES": "true", "EGRESS_GATEWAY_PREFIX_SHARE": "1"}


async def test_strict_prefixes_and_shares_hold_newcomers_and_cut_nobody_off(world: World) -> None:
    prefix = ipaddress.ip_network(await configured(world, "tenant"))
    (pod,) = await world.deploy("tenant", configuration="tenant", replicas=1)
    before = await world.curl(pod, f"{WHATSMYIP}/tenant/")
    assert ipaddress.ip_address(before) in prefix
    await controllers(world, _SETTINGS)
    try:
        wanted = {"gatewayNodepoolName": POOL, "publicIpPrefixId": world.prefix_id("pip-tenant")}
        await world.configure("newcomer", wanted)
        await said(world, "newcomer", "PrefixNotAllowed", "strictPrefixes")
        assert await world.curl(pod, f"{WHATSMYIP}/tenant/") == before, "what serves goes on"
        await allow(world, await world.event("newcomer", "PrefixNotAllowed"))
        # Its grant makes the prefix one of its namespace alone: a share would be of nothing.
        await ready(world, "newcomer")
        await remove(world, "newcomer")
        await shared_with_another(world, wanted["publicIpPrefixId"])
        await world.configure("newcomer", wanted)
        await said(world, "newcomer", "PrefixShareUsed", "tenant")
        assert await world.curl(pod, f"{WHATSMYIP}/tenant/") == before
        await world.kube.delete("deployments", "tenant", namespace="default")
        await remove(world, "tenant")
        await ready(world, "newcomer")
        (other,) = await world.deploy("newcomer", configuration="newcomer", replicas=1)
        address = await world.curl(other, f"{WHATSMYIP}/newcomer/")
        assert ipaddress.ip_address(address) in prefix
        await world.kube.delete("deployments", "newcomer", namespace="default")
        await remove(world, "newcomer")
    finally:
        await world.kube.delete("namespaces", "partner")
        lifted = {"metadata": {"annotations": {names.ALLOWED_PREFIXES_ANNOTATION: None}}}
        await world.kube.patch("namespaces", "default", lifted)
        await controllers(world, dict.fromkeys(_SETTINGS))


async def allow(world: World, message: str) -> None:
    """Runs the command that the message gives."""
    *_, assignment = shlex.split(message.partition("kubectl ")[2])
    key, _, value = assignment.partition("=")
    await world.kube.patch("namespaces", "default", {"metadata": {"annotations": {key: value}}})


async def shared_with_another(world: World, prefix_id: str) -> None:
    meta = {"name": "partner", "annotations": {names.ALLOWED_PREFIXES_ANNOTATION: prefix_id}}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    await world.kube.create("namespaces", body)


async def ready(world: World, name: str) -> None:
    await world.configuration_condition(
        name, lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=180
    )


async def controllers(world: World, settings: dict[str, Any]) -> None:
    """``helm upgrade`` with other settings of the controller (None: without); returns when it has
    rolled out."""
    where = {"namespace": names.SYSTEM_NAMESPACE}
    found = await world.kube.get("deployments", "egress-gateway-controller", **where)
    containers = found["spec"]["template"]["spec"]["containers"]
    kept = [e for e in containers[0]["env"] if e["name"] not in settings]
    more = [{"name": name, "value": value} for name, value in settings.items() if value]
    containers[0]["env"] = [*kept, *more]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    await world.kube.patch("deployments", "egress-gateway-controller", patch, **where)

    async def rolled_out() -> bool:
        found = await world.kube.get("deployments", "egress-gateway-controller", **where)
        status = found.get("status", {})
        replicas = found["spec"].get("replicas", 1)
        return bool(
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == replicas
            and status.get("readyReplicas", 0) == replicas
            and status.get("replicas", 0) == replicas
        )

    await until(rolled_out, timeout=120, what="the controller to be replaced")
