"""Which Kubernetes versions there are, and where a cluster can go from its own: what
`az aks get-versions` and `az aks get-upgrades` ask."""

from __future__ import annotations

from typing import Any

from egress_gateway_lab.azure.arm.kinds import Answer, Call, Kind
from egress_gateway_lab.azure.providers.aks import rules
from egress_gateway_lab.azure.providers.resources import CLUSTER


def _later(minor: str) -> list[str]:
    """The newest patch of the next minor version: none can be skipped."""
    minors = list(rules.PATCHES)
    following = minors[minors.index(minor) + 1 :][:1]
    return [f"{m}.{rules.PATCHES[m]}" for m in following]


class Versions(Kind):
    """``locations/{location}/kubernetesVersions``."""

    type = "Microsoft.ContainerService/locations/kubernetesVersions"

    async def list(self, call: Call) -> Answer:
        shown: list[dict[str, Any]] = [
            {
                "version": minor,
                "isPreview": None,
                "isDefault": minor == rules.DEFAULT_VERSION,
                "capabilities": {"supportPlan": ["KubernetesOfficial"]},
                "patchVersions": {f"{minor}.{patch}": {"upgrades": _later(minor)}},
            }
            for minor, patch in rules.PATCHES.items()
        ]
        return Answer(200, {"values": shown})


class UpgradeProfiles(Kind):
    """``managedClusters/{name}/upgradeProfiles/default``."""

    type = f"{CLUSTER}/upgradeProfiles"
    tracked = False

    async def get(self, call: Call) -> Answer:
        parent = call.id.parent
        cluster = self.azure.store.get(parent.text) if parent else None
        if cluster is None or call.id.name.lower() != "default":
            raise self.missing(call.id)
        version = cluster["properties"]["currentKubernetesVersion"]
        minor, _, patch = version.rpartition(".")
        newest = rules.PATCHES[minor]
        upgrades = [f"{minor}.{newest}"] if int(patch) < newest else []
        control_plane = {
            "kubernetesVersion": version,
            "osType": "Linux",
            "upgrades": [{"kubernetesVersion": v} for v in [*upgrades, *_later(minor)]],
        }
        document = {
            "id": call.id.text,
            "name": "default",
            "type": self.type,
            "properties": {"controlPlaneProfile": control_plane, "agentPoolProfiles": []},
        }
        return Answer(200, document)
