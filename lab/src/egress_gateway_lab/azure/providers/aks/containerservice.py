"""Microsoft.ContainerService: clusters and node pools that really come into being.

A cluster is ``Succeeded`` when its API server answers and its nodes are Ready, because the
operation awaits the backend that makes them; a pool likewise. A failing machine makes the pool
and the operation ``Failed``, with the backend's words.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import uuid
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from egress_gateway.api import names
from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.operations import RETRY_AFTER, Operation
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers import authorization
from egress_gateway_lab.azure.providers.aks import modelled, rules
from egress_gateway_lab.azure.providers.aks.machines import NodePools
from egress_gateway_lab.azure.providers.aks.network import SUBNET, NodeGroup
from egress_gateway_lab.azure.providers.compute.scalesets import merge, owner_of
from egress_gateway_lab.azure.providers.network.virtualnetworks import Subnets
from egress_gateway_lab.azure.providers.resources import CLUSTER, ResourceGroups
from egress_gateway_lab.protocols import ClusterSpec

POOL = f"{CLUSTER}/agentPools"


class AksKind(Kind):
    """One operation at a time on a cluster, in AKS's words."""

    def busy(self, call: Call, operation: Operation) -> ArmError:
        name = ids.parse(operation.target).name
        return ArmError(
            409,
            "OperationNotAllowed",
            f"Operation is not allowed because there's an in progress operation on {name} "
            f"({operation.name}). Please wait for it to finish before starting a new operation.",
            headers={"Retry-After": RETRY_AFTER},
        )

    def cluster(self, cluster_id: str) -> Document:
        found = self.azure.store.get(cluster_id)
        if found is None:
            raise self.missing(ids.parse(cluster_id))
        return found

    def check_pool(self, cluster: Document, name: str, pool: Document) -> None:
        """Raises ``ArmError`` for a pool that the service does not make."""
        rules.check_pool(cluster, name, pool, least=self.azure.least_gateways)
        modelled.check_machines(name, pool)
        node_group = NodeGroup(self.azure, cluster)
        rules.check_subnet(name, pool, node_group.network_id)
        if pool.get("vnetSubnetID"):
            self.azure.require(pool["vnetSubnetID"], cluster["id"], Subnets.type)

    def save_pool(self, cluster_id: str, name: str, pool: Document, state: str) -> Document:
        document = {
            "id": f"{cluster_id}/agentPools/{name}",
            "name": name,
            "type": POOL,
            "properties": {**pool, "provisioningState": state, "powerState": {"code": "Running"}},
        }
        self.azure.store.put(POOL, document)
        return document

    def pools(self, cluster_id: str) -> list[Document]:
        return self.azure.store.of_type(POOL, cluster_id)


class ManagedClusters(AksKind):
    """Clusters."""

    type = CLUSTER

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        body = _updated(old, body) if old else body
        properties = body["properties"]
        profiles = properties.pop("agentPoolProfiles", None) or []
        properties["networkProfile"] = rules.network_profile(properties.get("networkProfile"))
        properties["networkProfile"]["loadBalancerProfile"].pop("effectiveOutboundIPs", None)
        self._one_outbound(call, properties["networkProfile"]["loadBalancerProfile"])
        rules.check_cluster(body)
        modelled.check_network(properties["networkProfile"])
        if old is None:
            self._create(body, profiles)
        else:
            self._check_update(old, body)
        properties["currentKubernetesVersion"] = rules.full_version(properties["kubernetesVersion"])
        for target, kind in _outbound_references(properties):
            self.azure.require(target, body["id"], kind)
        self._accept_pools(body, profiles, create=old is None)
        return body

    def _check_update(self, old: Document, new: Document) -> None:
        pools = self.pools(new["id"])
        rules.check_disable(new, pools)
        versions = (d["properties"]["kubernetesVersion"] for d in (old, new))
        rules.check_upgrade(*versions)
        for pool in pools:
            self.check_pool(new, pool["name"], pool["properties"])

    def _one_outbound(self, call: Call, profile: dict[str, Any]) -> None:
        """What a request names of the three ways replaces the others."""
        given = ((call.body or {}).get("properties") or {}).get("networkProfile") or {}
        named = given.get("loadBalancerProfile") or {}
        ways = ("outboundIPPrefixes", "outboundIPs", "managedOutboundIPs")
        chosen = next((w for w in ways if named.get(w)), None)
        if chosen:
            for way in ways:
                if way != chosen:
                    profile.pop(way, None)

    def _create(self, body: Document, profiles: list[Document]) -> None:
        properties = body["properties"]
        group = body["id"].split("/")[4]
        location = body["location"]
        if not any((p.get("mode") or "System") == "System" for p in profiles):
            raise errors.invalid(
                "Must define at least one system pool.", target="agentPoolProfiles"
            )
        identity = self.azure.directory.add_managed_identity(body["name"])
        kubelet = self.azure.directory.add_managed_identity(f"{body['name']}-agentpool")
        self.azure.directory.federate(identity.client_id, self.azure.addon_subject)
        body["identity"] = {
            "type": "SystemAssigned",
            "principalId": identity.object_id,
            "tenantId": self.azure.tenant,
        }
        body.setdefault("sku", {"name": "Base", "tier": "Free"})
        version = str(properties.get("kubernetesVersion") or rules.DEFAULT_VERSION)
        dns = properties.get("dnsPrefix") or body["name"]
        properties.update(
            kubernetesVersion=version,
            dnsPrefix=dns,
            fqdn=f"{dns}.hcp.{location}.lab.invalid",
            powerState={"code": "Running"},
            maxAgentPools=100,
            enableRBAC=True,
            nodeResourceGroup=properties.get("nodeResourceGroup")
            or f"MC_{group}_{body['name']}_{location}"[:80],
            servicePrincipalProfile={"clientId": "msi"},
            identityProfile={
                "kubeletidentity": {
                    "resourceId": "",
                    "clientId": kubelet.client_id,
                    "objectId": kubelet.object_id,
                }
            },
            resourceUID=uuid.uuid4().hex[:24],
        )
        node_group = NodeGroup(self.azure, body)
        properties["identityProfile"]["kubeletidentity"]["resourceId"] = (
            f"{node_group.id}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
            f"{body['name']}-agentpool"
        )
        if node_group.id in self.azure.store:
            raise ArmError(
                409,
                "NodeResourceGroupAlreadyExists",
                f"The node resource group {node_group.name} exists already.",
            )

    def _accept_pools(self, body: Document, profiles: list[Document], *, create: bool) -> None:
        known = {p["name"]: p["properties"] for p in self.pools(body["id"])}
        accepted: dict[str, Document] = {}
        for profile in profiles:
            name = profile.get("name") or ""
            given = {"mode": "System", **profile} if create else profile
            before = known.get(name)
            given = merge(before, given) if before else given
            pool = rules.pool_properties(given, body["properties"]["kubernetesVersion"])
            self.check_pool(body, name, pool)
            if before:
                rules.check_pool_change(name, before, pool)
            accepted[name] = pool
        for name, pool in accepted.items():
            self.save_pool(body["id"], name, pool, "Creating" if create else "Updating")

    async def settle(self, resource_id: str) -> None:
        cluster = self.cluster(resource_id)
        node_group = NodeGroup(self.azure, cluster)
        if node_group.id not in self.azure.store:
            node_group.create()
            self._grant(cluster, node_group)
            await self.azure.backend.create_cluster(self._spec(cluster, node_group))
        else:
            node_group.apply_outbound()
        pools = [p for p in self.pools(resource_id) if _pending(p)]
        await asyncio.gather(*(self._settle_pool(cluster, p) for p in pools))

    def resume(self, document: Document) -> None:
        """A lab begins with no machine running: every cluster is made again, and all pools."""
        if document["properties"]["provisioningState"] == "Deleting":
            self.begin_delete(document)
            return
        cluster_id = document["id"]
        self.set_state(cluster_id, "Starting")

        async def work() -> None:
            cluster = self.cluster(cluster_id)
            node_group = NodeGroup(self.azure, cluster)
            if node_group.id in self.azure.store:
                await self.azure.backend.create_cluster(self._spec(cluster, node_group))
            for pool in self.pools(cluster_id):
                if pool["properties"]["provisioningState"] == "Deleting":
                    await AgentPools(self.azure).remove(pool)
                else:
                    self.save_pool(cluster_id, pool["name"], pool["properties"], "Updating")
            await self.settle(cluster_id)
            self.set_state(cluster_id, "Succeeded")

        self.azure.operations.start(
            cluster_id, work, on_failure=lambda: self.set_state(cluster_id, "Failed")
        )

    async def _settle_pool(self, cluster: Document, document: Document) -> None:
        name, pool = document["name"], document["properties"]
        try:
            await NodePools(self.azure, cluster).settle(name, pool)
        except BaseException:
            self.save_pool(cluster["id"], name, pool, "Failed")
            raise
        self.save_pool(cluster["id"], name, pool, "Succeeded")

    def _grant(self, cluster: Document, node_group: NodeGroup) -> None:
        principal = cluster["identity"]["principalId"]
        authorization.assign(self.azure, node_group.id, "Contributor", principal)

    def _spec(self, cluster: Document, node_group: NodeGroup) -> ClusterSpec:
        properties = cluster["properties"]
        principal = self.azure.directory.find(cluster["identity"]["principalId"])
        assert principal is not None
        return ClusterSpec(
            cluster_id=cluster["id"],
            name=cluster["name"],
            kubernetes_version=properties["currentKubernetesVersion"],
            node_resource_group=node_group.name,
            location=cluster["location"],
            subscription=self.azure.subscription,
            tenant=self.azure.tenant,
            vnet_name=node_group.network_name,
            subnet_name=SUBNET,
            identity_client_id=principal.client_id,
            pod_cidr=IPv4Network(properties["networkProfile"]["podCidr"]),
            service_cidr=IPv4Network(properties["networkProfile"]["serviceCidr"]),
        )

    async def patch(self, call: Call) -> Answer:
        """Tags only."""
        old = self.read(call.id)
        new = {**old, "tags": dict((call.body or {}).get("tags") or {})}
        self.save(new)
        return Answer(200, self.view(new))

    async def remove(self, document: Document) -> None:
        await self.azure.backend.delete_cluster(document["id"])
        for pool in self.pools(document["id"]):
            self.azure.store.delete(pool["id"])
        self.azure.store.delete(document["id"])
        node_group = self.azure.store.get(NodeGroup(self.azure, document).id)
        if node_group is not None:
            await ResourceGroups(self.azure).empty(node_group)
        kubelet = document["properties"]["identityProfile"]["kubeletidentity"]["objectId"]
        for object_id in (document["identity"]["principalId"], kubelet):
            principal = self.azure.directory.find(object_id)
            authorization.revoke(self.azure, object_id)
            if principal:
                self.azure.directory.remove(principal)

    def view(self, document: Document) -> Document:
        shown = copy.deepcopy(document)
        properties = shown["properties"]
        properties["agentPoolProfiles"] = [
            {"name": p["name"], **p["properties"]} for p in self.pools(document["id"])
        ]
        outbound = NodeGroup(self.azure, document).effective_outbound()
        properties["networkProfile"]["loadBalancerProfile"]["effectiveOutboundIPs"] = outbound
        return shown

    async def post(self, call: Call, action: str) -> Answer:
        kinds = {
            "listclusterusercredential": ("clusterUser", False),
            "listclusteradmincredential": ("clusterAdmin", True),
        }
        if action.lower() not in kinds:
            raise errors.method_not_allowed("POST", f"{self.type}/{action}")
        cluster = self.read(ids.parse(call.id.text.rpartition("/")[0]))
        name, admin = kinds[action.lower()]
        content = await self.azure.backend.kubeconfig(cluster["id"], admin=admin)
        value = base64.b64encode(content).decode()
        return Answer(200, {"kubeconfigs": [{"name": name, "value": value}]})


class AgentPools(AksKind):
    """Node pools."""

    type = POOL
    tracked = False

    def check_busy(self, call: Call) -> None:
        super().check_busy(call)
        assert call.id.parent is not None
        operation = self.azure.operations.busy(call.id.parent.text)
        if operation is not None:
            raise self.busy(call, operation)

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        cluster = self.cluster(body["id"].rpartition("/agentPools/")[0])
        given = merge(old["properties"], body["properties"]) if old else body["properties"]
        pool = rules.pool_properties(given, cluster["properties"]["kubernetesVersion"])
        self.check_pool(cluster, body["name"], pool)
        if old:
            rules.check_pool_change(body["name"], old["properties"], pool)
        pool["powerState"] = {"code": "Running"}
        moved = old is not None and rules.local_dns(old["properties"]) != rules.local_dns(pool)
        return {**body, "properties": pool, **({"_renew": True} if moved else {})}

    async def settle(self, resource_id: str) -> None:
        document = self.azure.store.get(resource_id)
        if document is not None:
            cluster = self.cluster(resource_id.rpartition("/agentPools/")[0])
            pools = NodePools(self.azure, cluster)
            await pools.settle(document["name"], document["properties"])
            if document.get("_renew"):  # nodes learn their resolver when they boot
                await pools.renew(document["name"], document["properties"])
                self.save({k: v for k, v in document.items() if k != "_renew"})

    def view(self, document: Document) -> Document:
        properties = document["properties"]
        shown = {k: v for k, v in document.items() if not k.startswith("_")}
        if properties.get("localDNSProfile"):
            state = "Enabled" if rules.local_dns(properties) else "Disabled"
            profile = {**properties["localDNSProfile"], "state": state}
            shown["properties"] = {**properties, "localDNSProfile": profile}
        return shown

    async def post(self, call: Call, action: str) -> Answer:
        """``az aks nodepool upgrade --node-image-only``: each machine in its place, one at a
        time."""
        if action.lower() != "upgradenodeimageversion":
            raise errors.method_not_allowed("POST", f"{self.type}/{action}")
        pool = self.read(owner_of(call))
        self.check_busy(replace(call, id=ids.parse(pool["id"])))
        cluster = self.cluster(pool["id"].rpartition("/agentPools/")[0])
        self.set_state(pool["id"], "UpgradingNodeImageVersion")

        async def work() -> None:
            await NodePools(self.azure, cluster).renew(pool["name"], pool["properties"])
            image = rules.next_image(pool["properties"]["nodeImageVersion"])
            self.change(pool["id"], lambda p: p.update(nodeImageVersion=image))
            self.set_state(pool["id"], "Succeeded")

        operation = self.azure.operations.start(
            pool["id"], work, on_failure=lambda: self.set_state(pool["id"], "Failed")
        )
        shown = self.azure.store.get(pool["id"])
        return self.async_answer(call, operation, 202, shown, location=True)

    def check_delete(self, document: Document) -> None:
        cluster_id = document["id"].rpartition("/agentPools/")[0]
        system = [p for p in self.pools(cluster_id) if p["properties"]["mode"] == "System"]
        if [p["id"] for p in system] == [document["id"]]:
            raise ArmError(
                400,
                "OperationNotAllowed",
                "There has to be at least one system agent pool: the last one cannot be deleted.",
            )

    def resume(self, document: Document) -> None:
        """The cluster goes on with its pools."""

    async def remove(self, document: Document) -> None:
        cluster = self.cluster(document["id"].rpartition("/agentPools/")[0])
        await NodePools(self.azure, cluster).remove(document["name"], document["properties"])
        await super().remove(document)


def register(azure: Azure) -> None:
    """Lets machines that are deleted or switched behind AKS's back leave their cluster and come
    again."""

    def cluster_of(machine_id: str) -> Document | None:
        group = machine_id.split("/")[4].lower()
        clusters = azure.store.of_type(CLUSTER)
        return next(
            (c for c in clusters if c["properties"]["nodeResourceGroup"].lower() == group), None
        )

    async def gone(machine_id: str) -> None:
        cluster = cluster_of(machine_id)
        if cluster is not None:
            await azure.backend.stop_machine(cluster["id"], machine_id)

    async def off(machine_id: str) -> None:
        cluster = cluster_of(machine_id)
        if cluster is not None:
            await azure.backend.power_off(cluster["id"], machine_id)

    async def on(machine_id: str) -> None:
        cluster, machine = cluster_of(machine_id), azure.store.get(machine_id)
        name = (machine or {}).get("tags", {}).get(names.POOL_NAME_TAG)
        pool = azure.store.get(f"{cluster['id']}/agentPools/{name}") if cluster else None
        if cluster is not None and machine is not None and pool is not None:
            await NodePools(azure, cluster).start(name, pool["properties"], machine)

    async def restart(machine_id: str) -> None:
        await off(machine_id)
        await on(machine_id)

    async def reimage(machine_id: str) -> None:
        await gone(machine_id)
        await on(machine_id)

    azure.machine_gone = gone
    azure.machine_restart = restart
    azure.machine_reimage = reimage
    azure.machine_off = off
    azure.machine_on = on


_ASSIGNED = (
    "currentKubernetesVersion",
    "dnsPrefix",
    "fqdn",
    "identityProfile",
    "maxAgentPools",
    "nodeResourceGroup",
    "powerState",
    "resourceUID",
    "servicePrincipalProfile",
)
"""What a cluster has from its creation: later requests may repeat it, or not."""


def _updated(old: Document, body: Document) -> Document:
    merged: Document = merge(old, body)
    merged["identity"], merged["sku"] = old["identity"], merge(old["sku"], body.get("sku") or {})
    for key in _ASSIGNED:
        merged["properties"][key] = old["properties"][key]
    if not merged["properties"]["kubernetesVersion"]:
        merged["properties"]["kubernetesVersion"] = old["properties"]["kubernetesVersion"]
    return merged


def _pending(pool: Document) -> bool:
    return pool["properties"]["provisioningState"] in ("Creating", "Updating")


def _outbound_references(properties: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, type that it must be of) of what the cluster's outbound rule is to use."""
    profile = properties["networkProfile"]["loadBalancerProfile"]
    prefixes = (profile.get("outboundIPPrefixes") or {}).get("publicIPPrefixes") or []
    addresses = (profile.get("outboundIPs") or {}).get("publicIPs") or []
    return [
        *((p.get("id", ""), "Microsoft.Network/publicIPPrefixes") for p in prefixes),
        *((a.get("id", ""), "Microsoft.Network/publicIPAddresses") for a in addresses),
    ]
