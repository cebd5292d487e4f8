"""Which credential a configuration means, and a secret that is rotated under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity.aio import (
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from egress_gateway.cloud.azure.account.config import parse
from egress_gateway.cloud.azure.account.credentials import SecretFileCredential, credential
from egress_gateway.cloud.errors import CloudConfigError

BASE = {"subscriptionID": "s", "resourceGroup": "g", "location": "x"}
PERSON = BASE | {"tenantId": "00000000-0000-0000-0000-000000000001", "aadClientId": "c"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (BASE | {"useManagedIdentityExtension": True}, ManagedIdentityCredential),
        (
            BASE | {"useManagedIdentityExtension": True, "userAssignedIdentityID": "c"},
            ManagedIdentityCredential,
        ),
        (
            BASE
            | {
                "useManagedIdentityExtension": True,
                "userAssignedIdentityID": "/subscriptions/s/resourceGroups/g/providers/"
                "Microsoft.ManagedIdentity/userAssignedIdentities/i",
            },
            ManagedIdentityCredential,
        ),
        (PERSON | {"aadClientSecret": "hush"}, ClientSecretCredential),
        (
            PERSON
            | {"useFederatedWorkloadIdentityExtension": True, "aadFederatedTokenFile": "/token"},
            WorkloadIdentityCredential,
        ),
    ],
)
async def test_each_way_to_sign_in(content: dict[str, Any], kind: type) -> None:
    made = credential(parse(content))
    assert isinstance(made, kind)
    await made.close()


class Door:
    """Lets in who knows the secret."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def opened(self, secret: str) -> Any:
        door = self

        class Inner:
            async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
                if secret != door.wanted:
                    raise ClientAuthenticationError(message="AADSTS7000222: expired")
                return AccessToken(f"for {secret}", 0)

            async def close(self) -> None: ...

        return Inner()


async def test_a_rotated_secret_needs_no_restart(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    door = Door("old")
    made = SecretFileCredential(file, door.opened)
    assert (await made.get_token("scope")).token == "for old"
    door.wanted = "new"
    with pytest.raises(ClientAuthenticationError):
        await made.get_token("scope")
    file.write_text("new\n")
    assert (await made.get_token("scope")).token == "for new"


@pytest.mark.parametrize("content", [None, " \n"])
def test_a_secret_file_that_says_nothing_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CloudConfigError, match=str(file)):
        credential(parse(PERSON | {"aadClientSecretFile": str(file)}))
