"""Microsoft.Resources: tenants, subscriptions, locations, providers and resource groups."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.operations import RETRY_AFTER
from egress_gateway_lab.azure.arm.store import Document, Entry

GROUP = "Microsoft.Resources/resourceGroups"
CLUSTER = "Microsoft.ContainerService/managedClusters"
_EQUALITY = re.compile(r"(\w+) eq '([^']*)'")
_FILTERS = {"resourcetype": "type", "name": "name", "location": "location", "resourcegroup": "id"}


class Tenants(Kind):
    """``/tenants``: anyone signed in sees the tenant."""

    type = "Microsoft.Resources/tenants"

    def permission(self, call: Call) -> str:
        return ""

    async def list(self, call: Call) -> Answer:
        tenant = self.azure.tenant
        names = {"displayName": "Lab", "defaultDomain": "lab.invalid", "tenantType": "AAD"}
        shown = {"id": f"/tenants/{tenant}", "tenantId": tenant, "countryCode": "SE", **names}
        return Answer(200, {"value": [shown]})


class Subscriptions(Kind):
    """``/subscriptions``: shown to whoever holds a role anywhere in it."""

    type = "Microsoft.Resources/subscriptions"

    def permission(self, call: Call) -> str:
        return "" if call.id.is_resource is False else super().permission(call)

    async def list(self, call: Call) -> Answer:
        shown = subscription(self.azure)
        visible = self.azure.access.sees_below(call.principal, shown["id"])
        return Answer(200, {"value": [shown] if visible else []})

    async def get(self, call: Call) -> Answer:
        return Answer(200, subscription(self.azure))


class Locations(Kind):
    """``/subscriptions/{id}/locations``."""

    type = "Microsoft.Resources/subscriptions/locations"

    async def list(self, call: Call) -> Answer:
        name = self.azure.location
        shown = {
            "id": f"/subscriptions/{self.azure.subscription}/locations/{name}",
            "name": name,
            "type": "Region",
            "displayName": _DISPLAY.get(name, name),
            "regionalDisplayName": _DISPLAY.get(name, name),
            "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
        }
        return Answer(200, {"value": [shown]})


class Providers(Kind):
    """``/subscriptions/{id}/providers[/{namespace}[/register]]``: all are registered."""

    type = "Microsoft.Resources/subscriptions/providers"

    def permission(self, call: Call) -> str:
        return "Microsoft.Resources/subscriptions/providers/read"

    async def list(self, call: Call) -> Answer:
        spaces = sorted({k.type.partition("/")[0] for k in self.azure.kinds.values()})
        return Answer(200, {"value": [self._provider(s) for s in spaces]})

    async def get(self, call: Call) -> Answer:
        return Answer(200, self._provider(call.id.name))

    async def post(self, call: Call, action: str) -> Answer:
        return Answer(200, self._provider(call.id.names[-1]))

    def _provider(self, namespace: str) -> Document:
        namespace = ids.canonical(namespace)
        types = [
            kind.type.partition("/")[2]
            for kind in self.azure.kinds.values()
            if kind.type.lower().startswith(namespace.lower() + "/")
        ]
        return {
            "id": f"/subscriptions/{self.azure.subscription}/providers/{namespace}",
            "namespace": namespace,
            "registrationPolicy": "RegistrationRequired",
            "registrationState": "Registered",
            "resourceTypes": [
                {
                    "resourceType": t,
                    "locations": [_DISPLAY.get(self.azure.location, self.azure.location)],
                    "apiVersions": ["2024-01-01"],
                }
                for t in sorted(types)
            ],
        }


class ResourceGroups(Kind):
    """Resource groups. Deleting one deletes all that is in it, clusters' node groups too."""

    type = "Microsoft.Resources/subscriptions/resourceGroups"

    async def get(self, call: Call) -> Answer:
        return Answer(204 if call.method == "HEAD" else 200, self.read(call.id))

    def missing(self, resource_id: ids.ResourceId) -> errors.ArmError:
        return errors.group_not_found(resource_id.name)

    async def list(self, call: Call) -> Answer:
        return Answer(200, {"value": self.azure.store.of_type(GROUP)})

    async def put(self, call: Call) -> Answer:
        old = self.azure.store.get(call.id.text)
        body = self.draft(call, old)
        body["type"] = GROUP
        body["properties"] = {"provisioningState": "Succeeded"}
        if body["name"].lower() in self.azure.deleting_groups:
            raise errors.group_being_deleted(body["name"])
        self.azure.store.put(GROUP, body)
        return Answer(200 if old else 201, body)

    async def patch(self, call: Call) -> Answer:
        old = self.read(call.id)
        body = {**old, "tags": dict((call.body or {}).get("tags") or {})}
        self.azure.store.put(GROUP, body)
        return Answer(200, body)

    async def delete(self, call: Call) -> Answer:
        group = self.read(call.id)
        group = {**group, "properties": {"provisioningState": "Deleting"}}
        self.azure.store.put(GROUP, group)
        operation = self.begin_delete(group)
        url = self.azure.operation_url(call.base, operation, result=True)
        return Answer(202, None, {"Location": url, "Retry-After": RETRY_AFTER})

    async def remove(self, document: Document) -> None:
        await self.empty(document)

    def set_state(self, resource_id: str, state: str) -> None:
        group = self.azure.store.get(resource_id)
        if group is not None:
            self.azure.store.put(GROUP, {**group, "properties": {"provisioningState": state}})

    async def empty(self, group: Document) -> None:
        name = group["name"].lower()
        self.azure.deleting_groups.add(name)
        try:
            inside = self.azure.store.below(group["id"])
            clusters = [e for e in inside if e.type == CLUSTER]
            await asyncio.gather(*(self._remove(e) for e in clusters))
            for entry in sorted(self.azure.store.below(group["id"]), key=_teardown_order):
                if entry.id in self.azure.store:
                    await self._remove(entry)
            self.azure.store.delete(group["id"])
        finally:
            self.azure.deleting_groups.discard(name)

    async def _remove(self, entry: Entry) -> None:
        kind = self.azure.kind(entry.type)
        if kind is None:
            self.azure.store.delete(entry.id)
        else:
            await kind.remove(entry.document)


class GroupResources(Kind):
    """``…/resources``: what a group or the subscription holds, in short."""

    type = "Microsoft.Resources/subscriptions/resourceGroups/resources"

    def permission(self, call: Call) -> str:
        return "Microsoft.Resources/subscriptions/resourceGroups/read"

    async def list(self, call: Call) -> Answer:
        scope = call.id.text.rpartition("/")[0]
        shown: list[Document] = [
            {k: e.document[k] for k in ("id", "name", "type", "location", "tags", "sku")
             if k in e.document}
            for e in self.azure.store.below(scope)
            if e.type != GROUP and e.type.count("/") == 1 and "location" in e.document
        ]  # fmt: skip
        wanted = _equalities(call.query.get("$filter", ""))
        shown = [r for r in shown if all(_holds(r, *pair) for pair in wanted)]
        return Answer(200, {"value": shown})


class SubscriptionResources(GroupResources):
    """``/subscriptions/{id}/resources``."""

    type = "Microsoft.Resources/subscriptions/resources"


def subscription(azure: Azure) -> Document:
    """The one subscription."""
    return {
        "id": f"/subscriptions/{azure.subscription}",
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "subscriptionId": azure.subscription,
        "tenantId": azure.tenant,
        "displayName": "Lab",
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "Free_2014-09-01",
            "spendingLimit": "Off",
        },
    }


def _equalities(text: str) -> list[tuple[str, str]]:
    """``name eq 'value'`` joined by ``and``, in lower case; the clients at hand send no more."""
    found = []
    for part in re.split(r"\band\b", text.lower()) if text else ():
        term = _EQUALITY.fullmatch(part.strip())
        if term is None or term[1] not in _FILTERS:
            message = f"The lab cannot evaluate the filter {text!r}."
            raise errors.invalid(message, code="InvalidFilterInQueryString")
        found.append((term[1], term[2]))
    return found


def _holds(resource: Document, key: str, value: str) -> bool:
    if key == "resourcegroup":
        return str(resource["id"]).split("/")[4].lower() == value
    return str(resource.get(_FILTERS[key], "")).lower() == value


def _teardown_order(entry: Entry) -> tuple[int, str]:
    """Machines before what they refer to, children with their parents."""
    order = ("scalesets", "virtualmachines", "networkinterfaces", "loadbalancers", "addresses")
    kind = entry.type.lower()
    return next((i for i, w in enumerate(order) if w in kind), len(order)), entry.id


def kinds(azure: Azure) -> list[Kind]:
    every: list[Any] = [
        Tenants,
        Subscriptions,
        Locations,
        Providers,
        ResourceGroups,
        GroupResources,
        SubscriptionResources,
    ]
    return [kind(azure) for kind in every]


_DISPLAY = {"swedencentral": "Sweden Central", "westeurope": "West Europe"}
