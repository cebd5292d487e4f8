"""Microsoft.Compute: scale sets and their instances.

A PUT on something that exists is partial here, unlike in Microsoft.Network: sections that the
request leaves out stay, objects are merged, lists that are given replace the old list.
The model of a scale set and its instances are different things: with the Manual upgrade policy
an instance keeps its configuration until it is upgraded or written itself.
"""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from typing import Any

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.bodies import without_nulls
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.operations import Operation
from egress_gateway_lab.azure.arm.store import COUNTED, Document
from egress_gateway_lab.azure.providers.compute import power
from egress_gateway_lab.azure.providers.compute.nics import ScaleSetNics
from egress_gateway_lab.azure.providers.network.interfaces import check_ip_configurations
from egress_gateway_lab.azure.providers.network.kinds import check_item_names

MAX_INSTANCES = 1000
ACTIONS = frozenset({"manualupgrade", "delete", "reimage", *power.ACTIONS})
"""What can be posted to a scale set, in lower case."""
_ON_ALL = ACTIONS - {"manualupgrade", "delete"}
"""These mean every instance when none is named."""
ORCHESTRATION_MODES = ("Uniform", "Flexible")
UPGRADE_MODES = ("Manual", "Automatic", "Rolling")
_READ_ONLY = {"id", "name", "type", "instanceId", "location", "resources", "etag", "identity"}
_READ_ONLY_PROPERTIES = {
    "provisioningState",
    "uniqueId",
    "vmId",
    "latestModelApplied",
    "modelDefinitionApplied",
    "timeCreated",
    "instanceView",
}


class ComputeKind(Kind):
    """Partial PUT and PATCH; a conflict in compute's words."""

    canceled = "Canceled"

    def busy(self, call: Call, operation: Operation) -> errors.ArmError:
        return errors.busy_compute()

    def lost(self, call: Call, expected: str, actual: str) -> errors.ArmError:
        return errors.precondition_failed_compute(expected, actual)

    def check_busy(self, call: Call) -> None:
        """What lies in a scale set is not written while the set itself is. The set is, while an
        instance is: else one machine that hangs would stop the autoscaler."""
        super().check_busy(call)
        for operation in self.azure.operations.under_way():
            if ids.within(call.id.text, operation.target):
                raise self.busy(call, operation)

    def draft(self, call: Call, old: Document | None) -> Document:
        replaced = super().draft(call, old)
        if old is None:
            return replaced
        given = without_nulls(call.body)
        body = {k: v for k, v in given.items() if k not in _READ_ONLY}
        properties = {
            k: v
            for k, v in (body.pop("properties", None) or {}).items()
            if k not in _READ_ONLY_PROPERTIES
        }
        merged: Document = merge(old, {**body, "properties": properties})
        return merged

    async def patch(self, call: Call) -> Answer:
        self.read(call.id)
        answer = await self.put(call)
        return Answer(200, answer.body, answer.headers)

    def view(self, document: Document) -> Document:
        entry = self.azure.store.entry(document["id"])
        shown = {k: v for k, v in document.items() if not k.startswith("_")}
        return {**shown, "etag": entry.etag} if entry and entry.type.lower() in COUNTED else shown


class ScaleSets(ComputeKind):
    """Scale sets. Those of Flexible orchestration are documents alone: their machines would be
    virtual machines with NICs of their own, and the lab makes none."""

    type = "Microsoft.Compute/virtualMachineScaleSets"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        if old is None:
            self._create(body)
        check_nics(self.azure, body, model_nics(body))
        if old is not None and properties.get("virtualMachineProfile") != old["properties"].get(
            "virtualMachineProfile"
        ):
            body["_model"] = old["_model"] + 1
        _check_scale_set(body)
        (properties["virtualMachineProfile"].get("osProfile") or {}).pop("adminPassword", None)
        return body

    def _create(self, body: Document) -> None:
        properties = body["properties"]
        sku = body.get("sku")
        if sku is None:
            raise errors.invalid("Required parameter 'sku' is missing (null).", target="sku")
        sku.setdefault("tier", "Standard")
        sku.setdefault("capacity", 0)
        properties["uniqueId"] = str(uuid.uuid4())
        properties.setdefault("singlePlacementGroup", False)
        properties.setdefault("overprovision", False)
        properties.setdefault("orchestrationMode", "Uniform")
        properties.setdefault("upgradePolicy", {"mode": "Manual"})
        profile = properties.setdefault("virtualMachineProfile", {})
        profile.setdefault("osProfile", {}).setdefault("computerNamePrefix", body["name"])
        body["_model"] = 1
        body["_next"] = 0

    async def settle(self, resource_id: str) -> None:
        document = self.azure.store.get(resource_id)
        if document is None:
            return
        if is_flexible(document):
            return
        instances = instances_of(self, resource_id)
        if document["properties"]["upgradePolicy"]["mode"] != "Manual":
            for instance in instances:
                self.upgrade(instance["id"])
        surplus = len(instances) - int(document["sku"]["capacity"])
        if surplus < 0:
            self.add_instances(resource_id, -surplus)
        for instance in reversed(instances[len(instances) - max(surplus, 0) :]):
            await Instances(self.azure).remove(instance)

    def add_instances(self, scale_set_id: str, count: int) -> list[Document]:
        """Makes instances from the model; raises ``ArmError`` before making any if the model's
        prefixes cannot serve them all. The capacity follows."""
        document = copy.deepcopy(self.azure.store.get(scale_set_id))
        if document is None:
            raise errors.missing_reference(scale_set_id, scale_set_id)
        kind = Instances(self.azure)
        made = [kind.from_model(document, document["_next"] + i) for i in range(count)]
        kind.nics.check_capacity(made)
        document["_next"] += count
        self.save(copy.deepcopy(document))
        for instance in made:
            kind.save(instance)
            try:
                kind.nics.materialize(instance["id"])
            except errors.ArmError:
                kind.nics.release(instance["id"])
                for entry in self.azure.store.below(instance["id"]):
                    self.azure.store.delete(entry.id)
                self.azure.store.delete(instance["id"])
                raise
        document["sku"]["capacity"] = len(instances_of(self, scale_set_id))
        self.save(document)
        return made

    def upgrade(self, instance_id: str) -> None:
        """Gives an instance the model's network profile."""
        kind = Instances(self.azure)
        instance = self.azure.store.get(instance_id)
        if instance is None:
            return
        model = self.azure.store.get(scale_set_of(instance_id))
        assert model is not None
        if instance["_model"] == model["_model"]:
            return
        new = copy.deepcopy(instance)
        new["_model"] = model["_model"]
        nics = copy.deepcopy(model_nics(model))
        new["properties"]["networkProfileConfiguration"] = {"networkInterfaceConfigurations": nics}
        kind.save(new)
        kind.nics.materialize(instance_id)

    async def remove(self, document: Document) -> None:
        for instance in instances_of(self, document["id"]):
            await Instances(self.azure).remove(instance)
        await super().remove(document)

    async def post(self, call: Call, action: str) -> Answer:
        scale_set = self.read(owner_of(call))
        given = (call.body or {}).get("instanceIds")
        every = [d["instanceId"] for d in instances_of(self, scale_set["id"])]
        optional = action.lower() in _ON_ALL
        chosen = every if given == ["*"] or (optional and not given) else given or []
        for name in chosen:
            if name not in every:
                raise errors.invalid(
                    f"The provided instanceId {name} is not an active Virtual Machine Scale Set "
                    "VM instanceId.",
                    target="instanceIds",
                )

        async def work() -> None:
            for name in chosen:
                await self.act(action.lower(), f"{scale_set['id']}/virtualMachines/{name}")

        if action.lower() not in ACTIONS:
            raise errors.method_not_allowed("POST", f"{self.type}/{action}")
        self.check_busy(replace(call, id=ids.parse(scale_set["id"])))
        operation = self.azure.operations.start(scale_set["id"], work)
        return self.async_answer(call, operation, 202, None, location=True)

    async def act(self, action: str, instance_id: str) -> None:
        """What an action does to one instance."""
        if action in ("manualupgrade", "reimage"):
            self.upgrade(instance_id)
        if action in power.ACTIONS or action == "reimage":
            await power.switch(self.azure, action, instance_id)
        if action == "delete":
            instance = self.azure.store.get(instance_id)
            if instance is not None:
                await Instances(self.azure).remove(instance)


class Instances(ComputeKind):
    """Instances of a scale set, with their NICs."""

    type = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
    tracked = False

    @property
    def nics(self) -> ScaleSetNics:
        return ScaleSetNics(self.azure)

    def from_model(self, scale_set: Document, number: int) -> Document:
        """A new instance's document."""
        profile = scale_set["properties"]["virtualMachineProfile"]
        instance_id = f"{scale_set['id']}/virtualMachines/{number}"
        nics = copy.deepcopy(model_nics(scale_set))
        prefix = profile["osProfile"]["computerNamePrefix"]
        zones = scale_set.get("zones") or []
        return {
            **({"zones": [zones[number % len(zones)]]} if zones else {}),
            "name": f"{scale_set['name']}_{number}",
            "id": instance_id,
            "type": self.type,
            "location": scale_set["location"],
            "tags": dict(scale_set.get("tags") or {}),
            "instanceId": str(number),
            "sku": {k: scale_set["sku"][k] for k in ("name", "tier")},
            "_model": scale_set["_model"],
            "properties": {
                "vmId": str(uuid.uuid4()),
                "provisioningState": "Succeeded",
                "osProfile": {"computerName": f"{prefix}{base36(number):0>6}"},
                "networkProfile": {
                    "networkInterfaces": [
                        {"id": f"{instance_id}/networkInterfaces/{nic['name']}"} for nic in nics
                    ]
                },
                "networkProfileConfiguration": {"networkInterfaceConfigurations": nics},
            },
        }

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        owner = self.azure.store.get(scale_set_of(call.id.text))
        if owner is not None and is_flexible(owner):
            raise errors.ArmError(
                409,
                "OperationNotAllowed",
                "This operation is not supported on virtual machine scale sets with orchestration "
                "mode Flexible. Use the virtual machine's own API.",
            )
        if old is None:
            raise self.missing(call.id)
        nics = instance_nics(body)
        check_nics(self.azure, body, nics)
        if {n["name"] for n in nics} != {n["name"] for n in instance_nics(old)}:
            raise errors.invalid(
                "Network interfaces of a virtual machine scale set instance cannot be added or "
                "removed.",
                code="OperationNotAllowed",
            )
        return body

    def missing(self, resource_id: ids.ResourceId) -> errors.ArmError:
        """One that was scaled in, or never was; and what can be no instance's number."""
        if resource_id.is_resource and not resource_id.name.isdecimal():
            return errors.invalid(
                "Virtual Machine Scale Set VM instanceId must be a number.", target="instanceId"
            )
        return errors.ArmError(404, "NotFound", "The entity was not found in this Azure location.")

    async def settle(self, resource_id: str) -> None:
        instance = self.azure.store.get(resource_id)
        if instance is not None:
            self.nics.check_capacity([instance])
            self.nics.materialize(resource_id)

    async def post(self, call: Call, action: str) -> Answer:
        """Switches an instance, or makes it anew from the model (``reimage``)."""
        instance = self.read(owner_of(call))
        if action.lower() not in _ON_ALL:
            raise errors.method_not_allowed("POST", f"{self.type}/{action}")
        self.check_busy(replace(call, id=ids.parse(instance["id"])))
        sets = ScaleSets(self.azure)
        operation = self.azure.operations.start(
            instance["id"], lambda: sets.act(action.lower(), instance["id"])
        )
        return self.async_answer(call, operation, 202, None, location=True)

    async def remove(self, document: Document) -> None:
        await self.azure.machine_gone(document["id"])
        self.nics.release(document["id"])
        await super().remove(document)
        scale_set = copy.deepcopy(self.azure.store.get(scale_set_of(document["id"])))
        if scale_set is not None:
            left = len(instances_of(self, scale_set["id"]))
            if scale_set["sku"]["capacity"] > left:
                scale_set["sku"]["capacity"] = left
                self.azure.store.put(ScaleSets.type, scale_set)

    async def get(self, call: Call) -> Answer:
        return power.with_view(await super().get(call), call, self.read(call.id))

    def view(self, document: Document) -> Document:
        model = self.azure.store.get(scale_set_of(document["id"]))
        latest = model is not None and model["_model"] == document["_model"]
        shown = super().view(document)
        extra = {"latestModelApplied": latest, "modelDefinitionApplied": "VirtualMachineScaleSet"}
        return {**shown, "properties": {**shown["properties"], **extra}}


def merge(old: Any, new: Any) -> Any:
    """Objects member by member, everything else replaced; null removes."""
    if not isinstance(new, dict):
        return without_nulls(new)
    if not isinstance(old, dict):
        old = {}
    merged = copy.deepcopy(old)
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def check_nics(azure: Azure, machines: Document, nics: list[Document]) -> None:
    """Raises ``ArmError`` for NIC configurations that no machine of a scale set can have."""
    owner = machines["id"]
    check_item_names(owner, "networkInterfaceConfigurations", nics)
    for nic in nics:
        properties = nic.setdefault("properties", {})
        configurations = properties.get("ipConfigurations") or []
        _check_primary(owner, nic["name"], configurations)
        check_ip_configurations(azure, owner, configurations, machines["location"])


def _check_primary(owner: str, nic: str, configurations: list[Document]) -> None:
    """One of several ipConfigs is the primary one; a lone one need not say so, and Azure does not
    add it."""
    flagged = [c for c in configurations if (c.get("properties") or {}).get("primary")]
    if len(flagged) > 1 or (len(configurations) > 1 and not flagged):
        raise errors.invalid(
            f"Network interface configuration {nic} of virtual machine scale set {owner} must have "
            "one IP configuration marked as primary.",
            code="VMScaleSetNetworkInterfaceConfigurationMustHaveOneIpConfigAsPrimary",
            target="networkProfile",
        )


def _check_scale_set(scale_set: Document) -> None:
    sku, mode = scale_set["sku"], scale_set["properties"]["upgradePolicy"]
    if not sku.get("name"):
        raise errors.invalid("Required parameter 'sku.name' is missing (null).", target="sku.name")
    capacity = sku["capacity"]
    if not 0 <= capacity <= MAX_INSTANCES:
        raise errors.invalid(
            f"The value '{capacity}' of parameter 'sku.capacity' is out of range: it must be "
            f"between 0 and {MAX_INSTANCES}.",
            target="sku.capacity",
        )
    orchestration = scale_set["properties"].get("orchestrationMode") or "Uniform"
    if orchestration not in ORCHESTRATION_MODES:
        raise errors.invalid(
            f"The value '{orchestration}' of parameter 'orchestrationMode' is invalid: it must be "
            f"one of {', '.join(ORCHESTRATION_MODES)}.",
            target="orchestrationMode",
        )
    if mode.get("mode") not in UPGRADE_MODES:
        raise errors.invalid(
            f"The value '{mode.get('mode')}' of parameter 'upgradePolicy.mode' is invalid: it "
            f"must be one of {', '.join(UPGRADE_MODES)}.",
            target="upgradePolicy.mode",
        )


def is_flexible(scale_set: Document) -> bool:
    """Whether a scale set's machines stand alone (orchestration mode Flexible)."""
    return str(scale_set["properties"].get("orchestrationMode")).lower() == "flexible"


def model_nics(scale_set: Document) -> list[Document]:
    """NIC configurations of a scale set's model."""
    profile = scale_set["properties"].get("virtualMachineProfile") or {}
    network = profile.get("networkProfile") or {}
    return list(network.get("networkInterfaceConfigurations") or [])


def instance_nics(instance: Document) -> list[Document]:
    """NIC configurations of an instance."""
    network = instance["properties"].get("networkProfileConfiguration") or {}
    return list(network.get("networkInterfaceConfigurations") or [])


def instances_of(kind: Kind, scale_set_id: str) -> list[Document]:
    return kind.azure.store.of_type(Instances.type, scale_set_id)


def scale_set_of(instance_id: str) -> str:
    parent = ids.parse(instance_id).parent
    assert parent is not None
    return parent.text


def base36(number: int) -> str:
    """Scale sets number computer names in base 36."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = digits[number % 36]
    while number := number // 36:
        text = digits[number % 36] + text
    return text


def owner_of(call: Call) -> ids.ResourceId:
    """The resource that an action is posted to."""
    return ids.parse(call.id.text.rpartition("/")[0])
