"""What every resource type shares: one call, one answer, and the usual way of each verb.

A ``Kind`` serves one resource type. The defaults here are ARM's own rules (404 for what is not
there, ETags, one write at a time, long-running writes and deletions); kinds override ``complete``
(validate and fill in a new document), ``settle`` (what the operation does when it ends),
``check_delete`` and ``view`` (add what ARM computes when it answers).
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from egress_gateway_lab.azure.arm import bodies, errors, ids
from egress_gateway_lab.azure.arm.addressing import Addresses
from egress_gateway_lab.azure.arm.buckets import Buckets
from egress_gateway_lab.azure.arm.ids import ResourceId
from egress_gateway_lab.azure.arm.operations import Clock, Operation, Operations, retry_after
from egress_gateway_lab.azure.arm.store import Document, Store
from egress_gateway_lab.azure.identity.directory import Directory, Principal
from egress_gateway_lab.azure.identity.rbac import Access
from egress_gateway_lab.protocols import ClusterBackend

VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated request. ``base`` is the URL that the client reached us by."""

    method: str
    id: ResourceId
    body: Any
    query: Mapping[str, str]
    base: str
    principal: Principal
    if_match: str | None = None
    if_none_match: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body (None: empty) and headers."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


async def _nobody_minds(machine_id: str) -> None:
    """No cluster runs on these machines."""


@dataclass(slots=True, kw_only=True)
class Azure:
    """The state that all kinds work on."""

    subscription: str
    tenant: str
    location: str
    store: Store
    operations: Operations
    directory: Directory
    access: Access
    addresses: Addresses
    backend: ClusterBackend
    clock: Clock
    buckets: Buckets
    addon_subject: str
    """Subject of the ServiceAccount token that may sign in as a cluster's own identity."""
    least_gateways: int = 2
    """How few nodes AKS lets a gateway pool have."""
    deleting_groups: set[str] = field(default_factory=set)
    machine_gone: Callable[[str], Awaitable[None]] = _nobody_minds
    """Awaited with the id of an instance or VM before it is deleted."""
    machine_restart: Callable[[str], Awaitable[None]] = _nobody_minds
    machine_reimage: Callable[[str], Awaitable[None]] = _nobody_minds
    """Awaited with the id of an instance or VM that is to boot anew."""
    machine_off: Callable[[str], Awaitable[None]] = _nobody_minds
    """Awaited with the id of an instance or VM that is to be off and stays."""
    machine_on: Callable[[str], Awaitable[None]] = _nobody_minds
    """Awaited with the id of an instance or VM that was off and is to boot."""
    kinds: dict[str, Kind] = field(default_factory=dict)

    def kind(self, resource_type: str) -> Kind | None:
        return self.kinds.get(resource_type.lower())

    def view(self, resource_type: str, document: Document) -> Document:
        """A stored document as GET answers it."""
        kind = self.kind(resource_type)
        return kind.view(document) if kind else document

    def operation_url(self, base: str, operation: Operation, *, result: bool = False) -> str:
        word = "operationResults" if result else "operations"
        provider = ids.parse(operation.target).namespace or "Microsoft.Resources"
        return (
            f"{base}/subscriptions/{self.subscription}/providers/{provider}/locations/"
            f"{self.location}/{word}/{operation.name}?api-version=2024-01-01"
        )

    def require(self, target: str, referrer: str, wanted: str = "") -> Document:
        """The referred document (or the child inside one); InvalidResourceReference if absent,
        LinkedInvalidPropertyId if it is not of the ``wanted`` type,
        ReferencedResourceNotProvisioned while it is being written or deleted, and after a write
        of it has failed."""
        if wanted and ids.type_of(target).lower() != wanted.lower():
            raise errors.not_a_reference(target, wanted, referrer)
        found = self.find(target)
        if found is None:
            raise errors.missing_reference(target, referrer)
        state = self._state_of(target)
        if state != "Succeeded":
            raise errors.not_provisioned(target, referrer, state)
        return found

    def _state_of(self, target: str) -> str:
        """The provisioning state of a resource, or of the one that a child lives in."""
        at: ResourceId | None = ids.parse(target)
        while at is not None:
            document = self.store.get(at.text)
            if document is not None:
                return str(document["properties"].get("provisioningState") or "Succeeded")
            at = at.parent
        return "Succeeded"

    def find(self, target: str) -> Document | None:
        """A resource, or a child that lives inside its parent's document."""
        whole = self.store.get(target)
        if whole is not None:
            return whole
        try:
            child = ids.parse(target)
        except ValueError:
            return None
        parent = child.parent
        document = self.store.get(parent.text) if parent else None
        if document is None:
            return None
        items = document["properties"].get(child.types[-1])
        if not isinstance(items, list):
            return None
        return next((i for i in items if ids.same(i.get("id", ""), target)), None)


class Kind:
    """One resource type."""

    type: ClassVar[str]
    tracked: ClassVar[bool] = True
    """Whether documents have a location of their own."""
    canceled: ClassVar[str] = "Failed"
    """The provisioning state that a canceled write leaves."""

    def __init__(self, azure: Azure) -> None:
        self.azure = azure

    # -- what kinds override -------------------------------------------------------------

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        """The document to store for a PUT; raises ``ArmError``. ``body`` is a copy to keep."""
        return body

    async def settle(self, resource_id: str) -> None:
        """The operation's work, after its duration; what it raises makes the operation fail."""

    def check_delete(self, document: Document) -> None:
        """Raises ``ArmError`` if the resource may not go."""

    async def remove(self, document: Document) -> None:
        """The deletion's work."""
        self.azure.addresses.release(document["id"])
        for entry in self.azure.store.below(document["id"]):
            self.azure.addresses.release(entry.id)
            self.azure.store.delete(entry.id)
        self.azure.store.delete(document["id"])

    def view(self, document: Document) -> Document:
        return document

    async def post(self, call: Call, action: str) -> Answer:
        raise errors.method_not_allowed("POST", f"{self.type}/{action}")

    def busy(self, call: Call, operation: Operation) -> errors.ArmError:
        return errors.busy_network(self.azure.operation_url(call.base, operation))

    def lost(self, call: Call, expected: str, actual: str) -> errors.ArmError:
        """The answer to an ``If-Match`` of another version than the ``actual`` one."""
        return errors.precondition_failed(call.id.text, expected, actual)

    # -- the verbs -----------------------------------------------------------------------

    def permission(self, call: Call) -> str:
        """The action that the call needs."""
        if call.method == "POST":
            return f"{self.type}/{call.id.types[-1]}/action"
        return f"{self.type}/{VERBS[call.method]}"

    async def get(self, call: Call) -> Answer:
        document = self.read(call.id)
        entry = self.azure.store.entry(document["id"])
        headers = {"ETag": entry.etag} if entry else {}
        return Answer(200, self.view(document), headers)

    async def list(self, call: Call) -> Answer:
        """A collection: of a parent, of a group, or (top-level types) of the subscription."""
        scope = call.id.text.rpartition("/")[0].partition("/providers/")[0]
        if call.id.names:
            scope = call.id.text.rpartition("/")[0]
            if call.id.parent is not None and scope not in self.azure.store:
                raise self.missing(ids.parse(scope))
        found = [self.view(d) for d in self.azure.store.of_type(self.type, scope)]
        return Answer(200, {"value": found})

    async def put(self, call: Call) -> Answer:
        old = self.azure.store.get(call.id.text)
        self.check_parent(call.id)
        self.check_preconditions(call)
        self.check_busy(call)
        document = self.complete(call, self.draft(call, old), old)
        document["properties"]["provisioningState"] = "Updating" if old else "Creating"
        self.save(document)
        return self.accepted(call, document["id"], 200 if old else 201)

    async def patch(self, call: Call) -> Answer:
        """Tags only, as network resources have it."""
        old = self.read(call.id)
        self.check_preconditions(call)
        document = {**old, "tags": dict((call.body or {}).get("tags") or {})}
        self.save(document)
        return Answer(200, self.view(document))

    async def delete(self, call: Call) -> Answer:
        document = self.azure.store.get(call.id.text)
        if document is None:
            return Answer(204)
        self.check_preconditions(call)
        self.check_busy(call)
        self.check_delete(document)
        self.set_state(document["id"], "Deleting")
        return self.async_answer(call, self.begin_delete(document), 202, None, location=True)

    # -- parts ---------------------------------------------------------------------------

    def draft(self, call: Call, old: Document | None) -> Document:
        """The request's body with identity and location: what a full replace begins with."""
        body = call.body
        if not isinstance(body, dict) or not isinstance(body.get("properties") or {}, dict):
            raise errors.invalid(
                "The request content was invalid and could not be deserialized.",
                code="InvalidRequestContent",
            )
        body = bodies.without_nulls(body)
        document: Document = {
            "name": old["name"] if old else call.id.name,
            "id": old["id"] if old else call.id.text,
            "type": self.type,
        }
        if self.tracked:
            document["location"] = self.check_location(call, body, old)
        kept = {k: v for k, v in body.items() if k not in {*document, "etag", "properties"}}
        properties = body.get("properties") or {}
        return {**document, **kept, "properties": properties}

    def check_location(self, call: Call, body: Document, old: Document | None) -> str:
        given = body.get("location")
        if not given:
            if old:
                return str(old["location"])
            raise errors.invalid(
                "The location property is required for this definition.", code="LocationRequired"
            )
        location = str(given).lower().replace(" ", "")
        if old and location != old["location"]:
            raise errors.ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{call.id.name}' already exists in location '{old['location']}' in "
                f"resource group '{call.id.group}'. A resource with the same name cannot be "
                f"created in location '{location}'. Please select a new resource name.",
            )
        return location

    def check_parent(self, child: ResourceId) -> None:
        parent = child.parent
        if parent is not None and parent.text not in self.azure.store:
            raise errors.parent_not_found(child.type, child.name, parent.text)

    def check_preconditions(self, call: Call) -> None:
        entry = self.azure.store.entry(call.id.text)
        actual = entry.etag if entry else "(none)"
        if call.if_match and (entry is None or call.if_match not in ("*", actual)):
            raise self.lost(call, call.if_match, actual)
        if call.if_none_match == "*" and entry is not None:
            raise self.lost(call, "If-None-Match: *", actual)

    def check_busy(self, call: Call) -> None:
        operation = self.azure.operations.busy(call.id.text)
        if operation is not None:
            raise self.busy(call, operation)

    def read(self, resource_id: ResourceId) -> Document:
        document = self.azure.store.get(resource_id.text)
        if document is None:
            raise self.missing(resource_id)
        return document

    def missing(self, resource_id: ResourceId) -> errors.ArmError:
        kind = f"{resource_id.type}/{'/'.join(resource_id.names[:-1])}".rstrip("/")
        return errors.resource_not_found(kind, resource_id.name, resource_id.group or "")

    def write(self, resource_id: str, body: Document) -> Document:
        """Stores a resource on behalf of the service itself, validated and done at once."""
        old = self.azure.store.get(resource_id)
        call = Call(
            method="PUT",
            id=ids.parse(resource_id),
            body=body,
            query={},
            base="",
            principal=Principal("", "", self.azure.location, managed=True),
        )
        document = self.complete(call, self.draft(call, old), old)
        document["properties"]["provisioningState"] = "Succeeded"
        self.save(document)
        return document

    def save(self, document: Document) -> None:
        """Stores a document; its ETag also stands in the answers."""
        self.azure.store.put(self.type, document)

    def set_state(self, resource_id: str, state: str) -> None:
        self.change(resource_id, lambda p: p.update(provisioningState=state))

    def change(self, resource_id: str, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Edits a copy of the properties and stores it; nothing if the resource is gone."""
        old = self.azure.store.get(resource_id)
        if old is None:
            return
        new = copy.deepcopy(old)
        edit(new["properties"])
        self.save(new)

    def resume(self, document: Document) -> None:
        """Goes on with the operation that a document which comes from a file was in."""
        state = document["properties"].get("provisioningState")
        if state == "Deleting":
            self.begin_delete(document)
        elif state in ("Creating", "Updating"):
            self.begin(document["id"])

    def begin(self, resource_id: str) -> Operation:
        """Starts a write's operation."""

        async def work() -> None:
            await self.settle(resource_id)
            self.set_state(resource_id, "Succeeded")

        def failed() -> None:
            self.set_state(resource_id, self.canceled if operation.canceled else "Failed")

        operation = self.azure.operations.start(resource_id, work, on_failure=failed)
        return operation

    def begin_delete(self, document: Document) -> Operation:
        """Starts a deletion's operation."""
        return self.azure.operations.start(
            document["id"],
            lambda: self.remove(document),
            on_failure=lambda: self.set_state(document["id"], "Failed"),
        )

    def accepted(self, call: Call, resource_id: str, status: int) -> Answer:
        """Starts the write's operation and answers for it."""
        operation = self.begin(resource_id)
        document = self.azure.store.get(resource_id)
        assert document is not None
        return self.async_answer(call, operation, status, self.view(document))

    def async_answer(
        self, call: Call, operation: Operation, status: int, body: Any, *, location: bool = False
    ) -> Answer:
        headers = {
            "Azure-AsyncOperation": self.azure.operation_url(call.base, operation),
            **retry_after(operation.target),
        }
        if location:
            headers["Location"] = self.azure.operation_url(call.base, operation, result=True)
        return Answer(status, body, headers)


def one(properties: Mapping[str, Any], key: str) -> str | None:
    """The id in a SubResource-valued property."""
    value = properties.get(key)
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return str(value["id"])
    return None
