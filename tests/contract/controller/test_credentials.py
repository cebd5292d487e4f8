"""Signing in to the emulator with a secret from a file, also when it is rotated."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.account.config import parse
from egress_gateway.cloud.azure.cloud import AzureCloud
from tests.contract.controller.azure_lab import AzureLab, azure_lab


def _by_secret(lab: AzureLab, file: Path, client: str) -> AzureCloud:
    content = lab.config | {
        "useFederatedWorkloadIdentityExtension": False,
        "aadClientId": client,
        "aadClientSecretFile": str(file),
    }
    return AzureCloud(parse(content))


async def test_a_client_secret_lets_in_and_its_role_decides(tmp_path: Path) -> None:
    async with azure_lab(tmp_path) as lab:
        await lab.add_pool("npegress")
        file = tmp_path / "secret"
        file.write_text("x")
        cloud = _by_secret(lab, file, "me")
        try:
            assert "npegress" in {pool.name for pool in await cloud.pools()}
        finally:
            await cloud.close()


async def test_a_token_that_azure_does_not_take_is_a_rejected_credential(tmp_path: Path) -> None:
    async with azure_lab(tmp_path) as lab:
        Path(lab.config["aadFederatedTokenFile"]).write_text("somebody else's")
        cloud = AzureCloud(parse(lab.config))
        try:
            with pytest.raises(errors.Unauthenticated) as refused:
                await cloud.pools()
        finally:
            await cloud.close()
        assert refused.value.mend
