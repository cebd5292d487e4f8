"""The three ways to prove who we are: workload identity, managed identity, client secret.

A custom authority is not asked to be discovered at login.microsoftonline.com: a lab or an
air-gapped cloud has no way there. A secret in a file is read again when it is refused, so that
rotating it needs no restart; the token of a workload identity is read again by the library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.identity.aio import (
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.errors import CloudConfigError

TOKEN_FILE: Final = "/var/run/secrets/azure/tokens/azure-identity-token"  # noqa: S105
"""Where the workload identity webhook, and our manifest, put the ServiceAccount token."""


def credential(config: AzureConfig) -> AsyncTokenCredential:
    """The credential that ``config`` describes. Raises ``CloudConfigError``."""
    options: dict[str, Any] = {"connection_verify": config.ca_bundle or True}
    if config.use_managed_identity:
        return _managed(config.user_assigned_identity_id, options)
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
    if config.client_secret:
        return ClientSecretCredential(
            config.tenant_id, config.client_id, config.client_secret, **options
        )
    file = Path(config.client_secret_file)

    def opened(secret: str) -> AsyncTokenCredential:
        return ClientSecretCredential(config.tenant_id, config.client_id, secret, **options)

    return SecretFileCredential(file, opened)


def _managed(identity: str, options: dict[str, Any]) -> AsyncTokenCredential:
    """``identity``: a client id, a resource id, or empty for the machine's only identity."""
    if identity.lower().startswith("/subscriptions/"):
        return ManagedIdentityCredential(identity_config={"resource_id": identity}, **options)
    return ManagedIdentityCredential(client_id=identity or None, **options)


class SecretFileCredential(AsyncTokenCredential):
    """A client secret that lives in ``file``. Raises ``CloudConfigError`` if it cannot be read at
    the start; later a file that cannot be read leaves the secret before in use."""

    def __init__(self, file: Path, opened: Callable[[str], AsyncTokenCredential]) -> None:
        self._file = file
        self._opened = opened
        self._secret = _read(file)
        self._inner = opened(self._secret)

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """Reads the file again when Entra ID refuses, and asks once more if the secret is another.
        Raises ``ClientAuthenticationError``."""
        asked: dict[str, Any] = {"claims": claims, "tenant_id": tenant_id, "enable_cae": enable_cae}
        try:
            return await self._inner.get_token(*scopes, **asked, **kwargs)
        except ClientAuthenticationError:
            if not await self._changed():
                raise
            return await self._inner.get_token(*scopes, **asked, **kwargs)

    async def _changed(self) -> bool:
        try:
            secret = _read(self._file)
        except CloudConfigError:
            return False
        if secret == self._secret:
            return False
        await self._inner.close()
        self._secret, self._inner = secret, self._opened(secret)
        return True

    async def close(self) -> None:
        """Closes the connections to Entra ID."""
        await self._inner.close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()


def _read(file: Path) -> str:
    try:
        secret = file.read_text().strip()
    except OSError as error:
        raise CloudConfigError(f"aadClientSecretFile {file}: {error.strerror or error}") from error
    if not secret:
        raise CloudConfigError(f"aadClientSecretFile {file}: empty")
    return secret
