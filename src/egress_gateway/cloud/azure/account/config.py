"""Where Azure is, who we are there, and which resources are ours: one schema, one file.

The Go project's ``azure.json`` is accepted as it is (JSON or YAML, spelling without regard to
case). Ours in addition: files instead of secrets inline, and the endpoints of a custom cloud.
Fields that only its rate limiter reads are ignored with a warning.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from egress_gateway.api import names
from egress_gateway.cloud.errors import CloudConfigError
from egress_gateway.service.errors import understood

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AzureEndpoints:
    """Base URLs of one Azure cloud, without a trailing slash."""

    resource_manager: str
    active_directory: str


PUBLIC: Final = AzureEndpoints("https://management.azure.com", "https://login.microsoftonline.com")
CLOUDS: Final = {
    "": PUBLIC,
    "azurecloud": PUBLIC,
    "azurepubliccloud": PUBLIC,
    "azurechinacloud": AzureEndpoints(
        "https://management.chinacloudapi.cn", "https://login.chinacloudapi.cn"
    ),
    "azureusgovernment": AzureEndpoints(
        "https://management.usgovcloudapi.net", "https://login.microsoftonline.us"
    ),
    "azureusgovernmentcloud": AzureEndpoints(
        "https://management.usgovcloudapi.net", "https://login.microsoftonline.us"
    ),
}
"""Source: https://learn.microsoft.com/azure/developer/identity/national-clouds."""
CUSTOM: Final = frozenset({"azurestackcloud", "custom"})


class AzureConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """See docs for the meaning of each field; names are the Go project's where it has one."""

    subscription_id: str = msgspec.field(name="subscriptionID")
    resource_group: str
    location: str
    tenant_id: str = ""
    cloud: str = "AzurePublicCloud"
    vnet_name: str = ""
    vnet_resource_group: str = ""
    subnet_name: str = ""
    load_balancer: str = msgspec.field(name="gatewayLoadBalancerName", default=names.LOAD_BALANCER)
    load_balancer_resource_group: str = ""
    user_agent: str = "static-egress-gateway"

    use_managed_identity: bool = msgspec.field(name="useManagedIdentityExtension", default=False)
    user_assigned_identity_id: str = msgspec.field(name="userAssignedIdentityID", default="")
    use_workload_identity: bool = msgspec.field(
        name="useFederatedWorkloadIdentityExtension", default=False
    )
    federated_token_file: str = msgspec.field(name="aadFederatedTokenFile", default="")
    client_id: str = msgspec.field(name="aadClientId", default="")
    client_secret: str = msgspec.field(name="aadClientSecret", default="")
    client_secret_file: str = msgspec.field(name="aadClientSecretFile", default="")

    resource_manager_endpoint: str = ""
    active_directory_endpoint: str = ""
    ca_bundle: str = ""
    """PEM file that verifies both endpoints; the system's authorities when empty."""
    zones: list[str] = []
    """Availability zones of the load balancer's frontend and of managed prefixes, once they are
    made: ``["1", "2", "3"]`` where the region has zones. Empty: they are in no zone."""
    polling_interval: float = 0.0
    """Seconds between polls of a long-running operation whose answers name none (Retry-After).
    0: 5 in Azure, 1 in a custom cloud."""
    machine_timeout: float = 90.0
    """Seconds to wait for the write of an instance, a network interface, a prefix or an address.
    Azure may take 90 minutes for an instance whose agent does not answer."""
    document_timeout: float = 300.0
    """Seconds to wait for the write of a scale set or of the load balancer."""

    def __repr__(self) -> str:
        return f"AzureConfig({self.subscription_id}/{self.resource_group}, {self.cloud})"

    @property
    def custom(self) -> bool:
        """Whether the configuration brings a cloud of its own, with its endpoints."""
        return bool(self.resource_manager_endpoint) or self.cloud.lower() in CUSTOM

    @property
    def endpoints(self) -> AzureEndpoints:
        """Those that are named; the cloud's own for what is not."""
        known = CLOUDS.get(self.cloud.lower(), PUBLIC)
        return AzureEndpoints(
            self.resource_manager_endpoint.rstrip("/") or known.resource_manager,
            self.active_directory_endpoint.rstrip("/") or known.active_directory,
        )

    @property
    def balancer_group(self) -> str:
        """Where the load balancer lives: unset means with everything else."""
        return self.load_balancer_resource_group or self.resource_group

    @property
    def subnet(self) -> str:
        """Id of the load balancer's subnet; empty: that of the pool's instances."""
        if not (self.vnet_name and self.subnet_name):
            return ""
        return (
            f"/subscriptions/{self.subscription_id}"
            f"/resourceGroups/{self.vnet_resource_group or self.resource_group}"
            f"/providers/Microsoft.Network/virtualNetworks/{self.vnet_name}"
            f"/subnets/{self.subnet_name}"
        )


_FIELDS: Final = {f.encode_name.lower(): f.encode_name for f in msgspec.structs.fields(AzureConfig)}
_IGNORED_BEGINNINGS: Final = ("cloudprovider",)


@understood(CloudConfigError, "the Azure configuration")
def load(file: Path) -> AzureConfig:
    """Reads and checks ``file``. Raises ``CloudConfigError`` naming the field and what mends it."""
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise CloudConfigError(f"Azure configuration {file}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        # NB: the parser's text quotes the file, which may hold a secret.
        raise CloudConfigError(f"Azure configuration {file}: not valid JSON or YAML") from error
    if not isinstance(content, dict):
        raise CloudConfigError(f"Azure configuration {file}: an object is expected")
    return parse(content, source=str(file))


def parse(content: dict[str, Any], *, source: str = "Azure configuration") -> AzureConfig:
    """``content`` as configuration. Raises ``CloudConfigError``."""
    known: dict[str, Any] = {}
    for key, value in content.items():
        name = _FIELDS.get(str(key).lower())
        if name:
            known[name] = value.strip() if isinstance(value, str) else value
        elif not str(key).lower().startswith(_IGNORED_BEGINNINGS):
            log.warning("unknown field in the Azure configuration", extra={"field": str(key)})
    try:
        config = msgspec.convert(known, AzureConfig, strict=False)
    except msgspec.ValidationError as error:
        raise CloudConfigError(f"{source}: {error}") from error
    _check(config, source)
    return config


def _check(config: AzureConfig, source: str) -> None:
    empty = [
        name
        for name, value in (
            ("subscriptionID", config.subscription_id),
            ("resourceGroup", config.resource_group),
            ("location", config.location),
        )
        if not value
    ]
    if empty:
        raise CloudConfigError(f"{source}: {empty[0]} is empty")
    if config.cloud.lower() not in CLOUDS and config.cloud.lower() not in CUSTOM:
        raise CloudConfigError(
            f"{source}: cloud {config.cloud!r} is unknown; use AzurePublicCloud, AzureChinaCloud, "
            "AzureUSGovernment, or AzureStackCloud with resourceManagerEndpoint"
        )
    if config.cloud.lower() in CUSTOM and not config.resource_manager_endpoint:
        raise CloudConfigError(f"{source}: cloud {config.cloud} needs resourceManagerEndpoint")
    if config.user_assigned_identity_id and not config.use_managed_identity:
        raise CloudConfigError(
            f"{source}: userAssignedIdentityID needs useManagedIdentityExtension: true"
        )
    if config.use_managed_identity:
        return
    if not (config.tenant_id and config.client_id):
        raise CloudConfigError(
            f"{source}: tenantId and aadClientId are needed without managed identity"
        )
    if config.use_workload_identity:
        return
    if not (config.client_secret or config.client_secret_file):
        raise CloudConfigError(
            f"{source}: no credential: set useManagedIdentityExtension, "
            "useFederatedWorkloadIdentityExtension, or aadClientSecret(File)"
        )
