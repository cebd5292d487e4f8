"""From an authenticated request to the kind that serves it, by ARM's rules and in its order:
subscription, permission, linked permissions, group and scope, verb.
"""

from __future__ import annotations

import re
from dataclasses import replace

from egress_gateway_lab.azure.arm import bodies, errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.ids import ResourceId
from egress_gateway_lab.azure.arm.kinds import VERBS, Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.operations import canceled, retry_after
from egress_gateway_lab.azure.identity import rbac

_PROVIDERS = re.compile(
    r"^/subscriptions/(?P<sub>[^/]+)/providers(/(?P<space>[^/]+)(?P<register>/(un)?register)?)?$",
    re.IGNORECASE,
)


def parse_path(path: str) -> ResourceId:
    """As ``ids.parse``, with the provider registry made a resource type of its own."""
    registry = _PROVIDERS.match(path.rstrip("/"))
    if registry is None:
        try:
            return ids.parse(path)
        except ValueError as error:
            raise ArmError(404, "InvalidResource", f"No such resource: {path}") from error
    words, names = ["subscriptions", "providers"], [registry["sub"]]
    if registry["space"]:
        names.append(registry["space"])
    if registry["register"]:
        words.append("register")
    return ResourceId("", "", tuple(words), tuple(names), registry["sub"], None)


_NAME = re.compile(r"[\w(](?:[\w.()-]*[\w)-])?", re.ASCII)


async def dispatch(azure: Azure, call: Call) -> Answer:
    """Answers one call; raises ``ArmError``."""
    _check_subscription(azure, call.id)
    operation = _operation_name(call.id)
    if operation:
        return await operation_answer(azure, call, operation)
    kind, action = _kind(azure, call)
    permission = kind.permission(call)
    filtered = _authorize(azure, call, permission)
    if call.method in ("PUT", "PATCH") and permission:
        scope = call.id.text
        azure.access.check_links(call.principal, permission, scope, call.body)
    _check_scope(azure, call)
    _check_name(call)
    told = azure.buckets.request(call.method, call.id.text)
    bodies.check(kind.type, call.method, call.body)
    answer = await _verb(kind, call, action)
    if filtered and isinstance(answer.body, dict):
        seen = [
            item
            for item in answer.body["value"]
            if azure.access.allows(call.principal, permission, item["id"])
        ]
        answer = replace(answer, body={"value": seen})
    return replace(answer, headers={**answer.headers, **told})


def forbidden(azure: Azure, call: Call, form: str) -> ArmError:
    """How a call is refused to whoever has every role that it needs: by a deny assignment at the
    resource (``assignment``) or at what its body refers to (``links``), or because a referred
    subscription belongs to another tenant (``tenant``)."""
    kind, _ = _kind(azure, call)
    scope, action = call.id.text, kind.permission(call)
    who = call.principal.client_id, call.principal.object_id
    links = list(rbac.joins(scope, call.body))
    if form == "tenant":
        needed = links[0][1] if links else action
        return errors.foreign_tenant(needed, scope, azure.tenant, azure.subscription)
    if form == "links" and links:
        return errors.denied_links(*who, action, scope, links)
    return errors.denied(*who, action, scope)


def _check_name(call: Call) -> None:
    """What no resource may be called, whatever its type."""
    if call.method == "PUT" and (not _NAME.fullmatch(call.id.name) or len(call.id.name) > 80):
        raise errors.invalid(
            f"Resource name {call.id.name} is invalid. The name can be up to 80 characters long. "
            "It must begin with a word character, and it must end with a word character or with "
            "'_'. The name may contain word characters or '.', '-', '_'.",
            code="InvalidResourceName",
        )


async def _verb(kind: Kind, call: Call, action: str | None) -> Answer:
    if action is not None:
        return await kind.post(call, action)
    if call.method in ("GET", "HEAD"):
        return await (kind.get(call) if call.id.is_resource else kind.list(call))
    if not call.id.is_resource:
        raise errors.method_not_allowed(call.method, kind.type)
    if call.method == "PUT":
        return await kind.put(call)
    if call.method == "PATCH":
        return await kind.patch(call)
    return await kind.delete(call)


def _kind(azure: Azure, call: Call) -> tuple[Kind, str | None]:
    """Who serves the call, and the action's name for a POST."""
    if call.method == "POST":
        if call.id.is_resource:
            raise errors.method_not_allowed("POST", call.id.type)
        owner, _, action = call.id.type.rpartition("/")
        kind = azure.kind(owner)
        if kind is not None:
            return kind, action
    else:
        kind = azure.kind(call.id.type)
        if kind is not None and call.method in VERBS:
            return kind, None
    raise errors.invalid_resource_type(call.id.namespace, "/".join(call.id.types))


def _check_subscription(azure: Azure, resource_id: ResourceId) -> None:
    given = resource_id.subscription
    if given is not None and given.lower() != azure.subscription.lower():
        raise ArmError(
            404, "SubscriptionNotFound", f"The subscription '{given}' could not be found."
        )


def _authorize(azure: Azure, call: Call, permission: str) -> bool:
    """Raises AuthorizationFailed. True if a subscription-wide list is to be cut down to what
    the caller may see, as ARM does for whoever has rights in some groups only."""
    if not permission:
        return False
    scope = call.id.text if call.id.is_resource else call.id.text.rpartition("/")[0]
    listing = call.method == "GET" and not call.id.is_resource and call.id.group is None
    everywhere = f"/subscriptions/{azure.subscription}"
    if (
        listing
        and not azure.access.allows(call.principal, permission, scope)
        and azure.access.sees_below(call.principal, everywhere)
    ):
        return True
    azure.access.check(call.principal, permission, scope)
    return False


def _check_scope(azure: Azure, call: Call) -> None:
    """The group, and for extension resources the resource that they extend, must exist."""
    if call.id.group is None or not call.id.namespace:
        return
    group = f"/subscriptions/{call.id.subscription}/resourceGroups/{call.id.group}"
    if group not in azure.store:
        raise errors.group_not_found(call.id.group)
    if call.id.group.lower() in azure.deleting_groups and call.method in ("PUT", "PATCH"):
        raise errors.group_being_deleted(call.id.group)
    if "/providers/" in call.id.scope and azure.find(call.id.scope) is None:
        extended = ids.parse(call.id.scope)
        raise errors.resource_not_found(extended.type, extended.name, call.id.group)


def _operation_name(resource_id: ResourceId) -> str | None:
    kinds = (("locations", "operations"), ("locations", "operationResults"))
    return resource_id.names[1] if resource_id.types in kinds and resource_id.is_resource else None


async def operation_answer(azure: Azure, call: Call, name: str) -> Answer:
    """Status (``operations``) or result (``operationResults``) of a long-running operation."""
    known = azure.operations.get(name)
    told = azure.buckets.poll(known.target) if known is not None else {}
    operation = await azure.operations.ask(name)
    if operation is None:
        raise ArmError(404, "OperationNotFound", f"The operation '{name}' was not found.")
    if call.id.types[1] == "operations":
        headers = {} if operation.done.is_set() else retry_after(operation.target)
        return Answer(200, operation.body(), {**headers, **told})
    if not operation.done.is_set():
        url = azure.operation_url(call.base, operation, result=True)
        return Answer(202, None, {"Location": url, **retry_after(operation.target)})
    if operation.error:
        return Answer(operation.error_status, {"error": operation.error})
    if operation.canceled:
        return Answer(409, {"error": canceled(operation.target).error()})
    entry = azure.store.entry(operation.target)
    return Answer(200, azure.view(entry.type, entry.document)) if entry else Answer(204)
