"""Microsoft.Resources/deployments: templates carried out resource by resource, for their sender.

What ``az vmss create`` needs and no more: parameters, variables, dependsOn, outputs; no copies, no
nested or linked templates, one resource group, mode Incremental. Each resource is a PUT with the
sender's rights, and waits for those that it depends on.
https://learn.microsoft.com/azure/azure-resource-manager/templates/syntax
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.dispatch import dispatch
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.expressions import Functions, evaluated, invalid_template
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.store import Document


class Deployments(Kind):
    """Deployments of one resource group."""

    type = "Microsoft.Resources/deployments"
    tracked = False

    async def put(self, call: Call) -> Answer:
        template = Template(self.azure, call)
        resources = template.ordered()
        self.check_busy(call)
        old = self.azure.store.get(call.id.text)
        document = template.document("Running")
        self.save(document)

        async def work() -> None:
            for resource in resources:
                await _carry_out(self.azure, call, template, resource)
            self.save(template.document("Succeeded", template.outputs()))

        operation = self.azure.operations.start(
            document["id"], work, on_failure=lambda: self.save(template.document("Failed"))
        )
        return self.async_answer(call, operation, 200 if old else 201, document)

    async def post(self, call: Call, action: str) -> Answer:
        if action.lower() != "validate":
            return await super().post(call, action)
        target = ids.parse(call.id.text.rpartition("/")[0])
        template = Template(self.azure, replace(call, id=target))
        template.ordered()
        return Answer(200, template.document("Succeeded"))

    def resume(self, document: Document) -> None:
        """Nobody knows any more what was left to do."""
        if document["properties"]["provisioningState"] == "Running":
            self.set_state(document["id"], "Failed")


class DeploymentOperations(Kind):
    """``…/deployments/{name}/operations``: which resources a deployment was about."""

    type = "Microsoft.Resources/deployments/operations"

    async def list(self, call: Call) -> Answer:
        deployment = self.azure.store.get(call.id.text.rpartition("/")[0])
        properties = deployment["properties"] if deployment else {}
        shown = [
            {
                "id": f"{call.id.text}/{number}",
                "operationId": str(number),
                "properties": {
                    "provisioningOperation": "Create",
                    "provisioningState": properties["provisioningState"],
                    "targetResource": {"id": each["id"], "resourceType": ids.type_of(each["id"])},
                },
            }
            for number, each in enumerate(properties.get("outputResources") or ())
        ]
        return Answer(200, {"value": shown})


class Template:
    """A request's template with its parameters. Raises ``ArmError`` (InvalidTemplate)."""

    def __init__(self, azure: Azure, call: Call) -> None:
        self._azure, self._call = azure, call
        body = call.body if isinstance(call.body, dict) else {}
        self._asked = body.get("properties") or {}
        template = self._asked.get("template")
        if not isinstance(template, dict) or not isinstance(template.get("resources"), list):
            raise invalid_template("The template must be inline and have a list of resources.")
        self._template = template
        given = self._asked.get("parameters") or {}
        self._parameters = {
            name: (given.get(name) or {}).get("value", declared.get("defaultValue"))
            for name, declared in (template.get("parameters") or {}).items()
        }
        self._group = call.id.scope
        self._resources = [
            evaluated(resource, self._functions()) for resource in template["resources"]
        ]

    def _functions(self) -> Functions:
        variables = self._template.get("variables") or {}
        return {
            "parameters": lambda name: self._parameters[name],
            "variables": lambda name: evaluated(variables[name], self._functions()),
            "concat": lambda *parts: "".join(str(part) for part in parts),
            "resourceid": self._resource_id,
            "resourcegroup": lambda: self._azure.store.get(self._group),
            "subscription": lambda: {"subscriptionId": self._azure.subscription},
            "providers": lambda space, kind: {"apiVersions": ["2024-01-01"]},
            "reference": self._reference,
        }

    def _resource_id(self, kind: str, *names: str) -> str:
        space, _, types = kind.partition("/")
        pairs = zip(types.split("/"), names, strict=True)
        path = "/".join(f"{word}/{name}" for word, name in pairs)
        return f"{self._group}/providers/{space}/{path}"

    def _reference(self, resource: str, *_: Any) -> Any:
        """The properties of a resource that is there."""
        document = self._azure.store.get(resource)
        return self._azure.view(ids.type_of(resource), document)["properties"] if document else {}

    def id_of(self, resource: Document) -> str:
        return self._resource_id(resource["type"], *str(resource["name"]).split("/"))

    def ordered(self) -> list[Document]:
        """The resources, each after those that it depends on."""
        left = {self.id_of(r).lower(): r for r in self._resources}
        found: list[Document] = []
        while left:
            ready = [k for k, r in left.items() if not any(d in left for d in self._needs(r))]
            if not ready:
                raise invalid_template("Circular dependency detected on resources.")
            found += [left.pop(key) for key in ready]
        return found

    def _needs(self, resource: Document) -> Iterator[str]:
        """Ids in lower case; templates name them whole, or as type and name."""
        for named in resource.get("dependsOn") or ():
            text = str(named).lower().strip("/")
            whole = text.startswith("subscriptions/")
            yield f"/{text}" if whole else f"{self._group}/providers/{text}".lower()

    def outputs(self) -> dict[str, Any]:
        declared = self._template.get("outputs") or {}
        return {
            name: {"type": output["type"], "value": evaluated(output["value"], self._functions())}
            for name, output in declared.items()
        }

    def document(self, state: str, outputs: dict[str, Any] | None = None) -> Document:
        """The deployment as ARM answers it."""
        secret = {
            name
            for name, declared in (self._template.get("parameters") or {}).items()
            if str(declared.get("type", "")).lower().startswith("secure")
        }
        return {
            "id": self._call.id.text,
            "name": self._call.id.name,
            "type": Deployments.type,
            "properties": {
                "mode": self._asked.get("mode") or "Incremental",
                "provisioningState": state,
                "timestamp": datetime.fromtimestamp(self._azure.clock.time(), UTC).isoformat(),
                "correlationId": str(uuid.uuid4()),
                "parameters": {
                    name: {"type": "SecureString"} if name in secret else {"value": value}
                    for name, value in self._parameters.items()
                },
                "dependencies": [],
                "providers": [],
                "outputs": outputs or {},
                "outputResources": [{"id": self.id_of(r)} for r in self._resources],
            },
        }


async def _carry_out(azure: Azure, call: Call, template: Template, resource: Document) -> None:
    """One resource of a deployment, to its end. Raises ``ArmError`` (DeploymentFailed)."""
    meta = ("type", "name", "apiVersion", "dependsOn", "comments", "scope")
    body = {key: _typed(key, value) for key, value in resource.items() if key not in meta}
    target = ids.parse(template.id_of(resource))
    try:
        put = replace(call, method="PUT", id=target, body=body, if_match=None, if_none_match=None)
        answer = await dispatch(azure, put)
        url = answer.headers.get("Azure-AsyncOperation", "")
        operation = azure.operations.get(urlsplit(url).path.rpartition("/")[2]) if url else None
        if operation is None:
            return
        await operation.done.wait()
        if operation.error:
            raise ArmError(409, operation.error["code"], operation.error["message"])
    except ArmError as error:
        raise ArmError(
            409,
            "DeploymentFailed",
            "At least one resource deployment operation failed. Please list deployment operations "
            "for details. Please see https://aka.ms/arm-deployment-operations for usage details.",
            details=[error.error()],
        ) from error


def _typed(key: str, value: Any) -> Any:
    """Resource providers read "true" as true, and ``az`` relies on it. Tags are texts."""
    if isinstance(value, dict) and key != "tags":
        return {k: _typed(k, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_typed("", item) for item in value]
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
