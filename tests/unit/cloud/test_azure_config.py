"""One schema for Azure, which the Go project's file fits, and which never shows a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_gateway.cloud.azure.account.config import load, parse
from egress_gateway.cloud.errors import CloudConfigError

GO_FILE = {
    "cloud": "AzurePublicCloud",
    "tenantId": "t",
    "subscriptionId": "s",
    "aadClientId": "c",
    "aadClientSecret": "hush",
    "useManagedIdentityExtension": "false",
    "userAgent": "kube-egress-gateway-controller",
    "resourceGroup": "MC_rg",
    "location": "swedencentral",
    "gatewayLoadBalancerName": "kubeegressgateway-ilb",
    "loadBalancerResourceGroup": "",
    "vnetName": "aks-vnet",
    "vnetResourceGroup": "net",
    "subnetName": "aks-subnet",
    "cloudProviderBackoff": True,
}


def test_the_go_projects_file_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "azure.json"
    file.write_text(json.dumps(GO_FILE))
    config = load(file)
    assert config.balancer_group == "MC_rg"
    assert config.subnet == (
        "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network"
        "/virtualNetworks/aks-vnet/subnets/aks-subnet"
    )
    assert config.endpoints.resource_manager == "https://management.azure.com"
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("cloud", "manager"),
    [
        ("AzureChinaCloud", "https://management.chinacloudapi.cn"),
        ("AzureUSGovernment", "https://management.usgovcloudapi.net"),
        ("AZUREUSGOVERNMENTCLOUD", "https://management.usgovcloudapi.net"),
    ],
)
def test_sovereign_clouds_have_endpoints_of_their_own(cloud: str, manager: str) -> None:
    assert parse(GO_FILE | {"cloud": cloud}).endpoints.resource_manager == manager


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subscriptionId": ""}, "subscriptionID is empty"),
        ({"location": None}, "location"),
        ({"cloud": "Nimbus"}, "cloud 'Nimbus' is unknown"),
        ({"cloud": "AzureStackCloud"}, "resourceManagerEndpoint"),
        ({"aadClientSecret": ""}, "no credential"),
        ({"tenantId": ""}, "tenantId"),
        ({"userAssignedIdentityID": "x"}, "useManagedIdentityExtension"),
    ],
)
def test_what_cannot_work_is_one_clear_line(change: dict[str, object], words: str) -> None:
    with pytest.raises(CloudConfigError) as caught:
        parse(GO_FILE | change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_broken_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "azure.json"
    file.write_text('{"aadClientSecret": "hush", ')
    with pytest.raises(CloudConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "hush" not in str(caught.value)
