"""The three ways to prove who we are: workload identity, managed identity, client secret.

A custom authority is not asked to be discovered at login.microsoftonline.com: a lab or an
air-gapped cloud has no way there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from azure.core.credentials_async import AsyncTokenCredential
from azure.identity.aio import (
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from egress_gateway.cloud.azure.config import AzureConfig
from egress_gateway.cloud.errors import ConfigError

TOKEN_FILE: Final = "/var/run/secrets/azure/tokens/azure-identity-token"  # noqa: S105
"""Where the workload identity webhook, and our manifest, put the ServiceAccount token."""


def credential(config: AzureConfig) -> AsyncTokenCredential:
    """The credential that ``config`` describes. Raises ``ConfigError``."""
    options: dict[str, Any] = {"connection_verify": config.ca_bundle or True}
    if config.use_managed_identity:
        client = config.user_assigned_identity_id or None
        return ManagedIdentityCredential(client_id=client, **options)
    options |= {"authority": config.endpoints.active_directory}
    if config.custom:
        options["disable_instance_discovery"] = True
    if config.use_workload_identity:
        return WorkloadIdentityCredential(
            tenant_id=config.tenant_id,
            client_id=config.client_id,
            token_file_path=config.federated_token_file or TOKEN_FILE,
            **options,
        )
    return ClientSecretCredential(config.tenant_id, config.client_id, _secret(config), **options)


def _secret(config: AzureConfig) -> str:
    if config.client_secret:
        return config.client_secret
    try:
        return Path(config.client_secret_file).read_text().strip()
    except OSError as error:
        raise ConfigError(f"aadClientSecretFile {config.client_secret_file}: {error}") from error
