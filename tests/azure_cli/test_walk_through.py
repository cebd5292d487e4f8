"""The page docs/install/azure-cli.md, followed with the real `az` and the real `kubectl`.

The tests stand in the page's order. Each brings the page as far as it needs, so that one alone
can be run as well; what they assert is what a person sees.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.azure_cli import tables
from tests.azure_cli.conftest import Desk, Walk

pytestmark = pytest.mark.azure_cli

GROUP, CLUSTER, POOL = "my-group", "my-cluster", "npegress"
NODE_GROUP = f"MC_{GROUP}_{CLUSTER}_swedencentral"
NAME = "my-static-egress-gateway"
DEFAULT = ipaddress.ip_network("192.0.2.0/24")
"""Where the lab's load balancers take their own outbound addresses from."""
SIZE = "standard_d2pds_v6"
_VERSIONS = {m: rf"1\.{m + 1}\.\d+" for m in range(30, 37)} | {37: "None available"}
VMSS = rf"aks-{POOL}-\d{{8}}-vmss"


def addresses(text: str) -> list[ipaddress.IPv4Address]:
    """The lines that are nothing but an address: what `curl ifconfig.me` printed."""
    found = (line.strip() for line in text.splitlines())
    return [ipaddress.IPv4Address(line) for line in found if re.fullmatch(r"[\d.]{7,15}", line)]


def ready_nodes(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if re.search(r"\sReady\s", line)]


def prefix(walk: Walk) -> ipaddress.IPv4Network:
    """The brought prefix, as `az … --query ipPrefix -o tsv` gave it."""
    return ipaddress.IPv4Network(walk.one("A public IP prefix").splitlines()[-1])


def curl(walk: Walk, pod: str) -> ipaddress.IPv4Address:
    outcome = walk.terminal.run(f"kubectl exec {pod} -it -- curl ifconfig.me")
    assert outcome.status == 0, outcome.text
    return addresses(outcome.text)[0]


def until_seen(walk: Walk, network: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    """What the Internet sees of the plain pod, once that is of ``network``. The network follows
    Azure's resources a moment after `az` has returned, as Azure's own does."""
    deadline = time.monotonic() + 60
    while (seen := curl(walk, "nginx")) not in network:
        assert time.monotonic() < deadline, f"the plain pod still leaves from {seen}"
        time.sleep(0.5)
    return seen


# -- the story


def test_nobody_has_to_log_in(walk: Walk) -> None:
    outcome = walk.terminal.run("az account show -o table")
    tables.require(
        outcome.text, [{"EnvironmentName": "lab", "IsDefault": "True", "State": "Enabled"}]
    )


def test_a_login_by_hand_works_too(walk: Walk) -> None:
    """In a configuration folder of its own, which knows that az need not look for a newer az."""
    outcome = walk.terminal.run(
        "mkdir by-hand && cp $AZURE_CONFIG_DIR/versionCheck.json by-hand\n"
        "(export AZURE_CONFIG_DIR=$PWD/by-hand\n"
        "az cloud register -n local --endpoint-resource-manager $ARM_ENDPOINT"
        " && az cloud set -n local\n"
        "az login --service-principal -u ANY -p ANY --tenant adfs -o table)"
    )
    assert outcome.status == 0, outcome.text
    tables.require(outcome.text, [{"CloudName": "local", "State": "Enabled", "TenantId": "adfs"}])


def test_a_cluster_has_three_ready_nodes(walk: Walk) -> None:
    seen = walk.one("A resource group and a cluster")
    assert f'Merged "{CLUSTER}" as current context' in seen
    assert len(ready_nodes(seen)) == seen.count("v1.30.5") == 3


def test_a_plain_pod_leaves_from_the_load_balancer(walk: Walk) -> None:
    (seen,) = addresses(walk.one("One address for everybody"))
    assert seen in DEFAULT
    listed = walk.look(["az network public-ip list -o table"]).popitem()[1].text
    tables.require(listed, [{"ResourceGroup": NODE_GROUP, "Address": re.escape(str(seen))}])


def test_a_gateway_pool_brings_gateway_nodes(walk: Walk) -> None:
    assert len(ready_nodes(walk.one("A gateway node pool"))) == 2
    outcome = walk.terminal.run(
        "kubectl get nodes -l kubernetes.azure.com/mode=gateway -o json"
        ' | python3 -c \'import json, sys; [print(n["spec"]["taints"][0])'
        ' for n in json.load(sys.stdin)["items"]]\''
    )
    assert outcome.text.count("kubernetes.azure.com/mode") >= 2, outcome.text


def test_a_prefix_has_the_length_that_was_asked_for(walk: Walk) -> None:
    assert prefix(walk).prefixlen == 30


def test_a_missing_role_is_said_in_words(walk: Walk) -> None:
    seen = walk.one("A configuration that may not use the prefix yet")
    event = next(line for line in seen.splitlines() if re.match(r"\s+Warning\s+Authoriz", line))
    assert "lacks the role Network Contributor on /subscriptions/" in event
    assert 'az role assignment create --role "Network Contributor" --assignee' in event


def test_the_role_is_all_that_was_missing(walk: Walk) -> None:
    seen = walk.one("The role")
    assert f"egressIpPrefix: {prefix(walk)}" in seen
    assert len(re.findall(r"secondaryIp: ", seen)) == 2


def test_the_pod_leaves_from_the_prefix_and_others_do_not(walk: Walk) -> None:
    before = addresses(walk.one("One address for everybody"))
    annotated, plain = addresses(walk.one("A deployment with the annotation"))
    assert annotated in prefix(walk)
    assert [plain] == before


# -- looking around


def test_every_table_of_the_page(walk: Walk) -> None:
    walk.through("Look around")
    outcomes = walk.done["Look around"]
    section = next(s for s in walk.page if s.title == "Look around")
    commands = [line for line in section.blocks[0].text.splitlines() if line.startswith("az ")]
    expected = _tables(prefix(walk))
    assert sorted(expected) == sorted(c.removesuffix(" -o table") for c in commands)
    for command, outcome in zip(commands, outcomes, strict=True):
        assert outcome.status == 0, f"{command}: {outcome.text}"
        tables.require(outcome.text, expected[command.removesuffix(" -o table")])


def _tables(prefix: ipaddress.IPv4Network) -> dict[str, list[dict[str, str]]]:
    """What each look-up of the page has to show, by command."""
    done = {"ProvisioningState": "Succeeded"}
    cluster = {"Name": CLUSTER, "ResourceGroup": GROUP, "KubernetesVersion": "1.30.5", **done}
    pool = {"Name": POOL, "Count": "2", "Mode": "Gateway", "VmSize": SIZE, **done}
    system = {"Name": "nodepool1", "Count": "3", "Mode": "System", **done}
    uid = r"[0-9a-f-]{36}"
    balancers = [{"Name": n, **done} for n in ("kubernetes", "kubeegressgateway-ilb")]
    brought = {"Name": "pip-prefix-egress", "IpPrefix": re.escape(str(prefix)), **done}
    public = [{"IpAddress": re.escape(str(prefix[i])), **done} for i in (0, 1)]
    rule = {"Name": uid, "Protocol": "Udp", "FrontendPort": "6\\d{3}", "EnableFloatingIP": "True"}
    probe = {"Name": uid, "Port": "8082", "Protocol": "Http", "RequestPath": f"/gw/{uid}"}
    sets = [
        {"Name": VMSS, "Capacity": "2"},
        {"Name": r"aks-nodepool1-\d{8}-vmss", "Capacity": "3"},
    ]
    listed = f"-g $RG --cluster-name $AKS -n {POOL}"
    return {
        "az group list": [{"Name": GROUP, "Status": "Succeeded"}, {"Name": NODE_GROUP}],
        "az aks list": [cluster],
        "az aks show -g $RG -n $AKS": [cluster],
        "az aks nodepool list -g $RG --cluster-name $AKS": [system, pool],
        f"az aks nodepool show {listed}": [pool],
        "az vmss list": sets,
        "az vmss list-instances -g $MC -n $VMSS": [{"Name": f"{VMSS}_{i}", **done} for i in (0, 1)],
        "az vmss nic list -g $MC --vmss-name $VMSS": [{"Name": VMSS, "Primary": "True"}] * 2,
        "az vmss list-instance-public-ips -g $MC -n $VMSS": public,
        "az network lb list": balancers,
        "az network lb show -g $MC -n kubernetes": balancers[:1],
        "az network lb rule list -g $MC --lb-name kubeegressgateway-ilb": [rule],
        "az network lb probe list -g $MC --lb-name kubeegressgateway-ilb": [probe],
        "az network public-ip list": [{"ResourceGroup": NODE_GROUP, "Address": r"192\.0\.2\.\d+"}],
        "az network public-ip prefix list": [brought],
        "az network public-ip prefix show -g $RG -n pip-prefix-egress": [brought],
        "az network vnet list -g $MC": [{"Name": r"aks-vnet-\d{8}", "Prefixes": "10.224.0.0/12"}],
        "az aks get-versions -l swedencentral": [
            {"KubernetesVersion": rf"1\.{minor}\.\d+", "Upgrades": upgrades}
            for minor, upgrades in _VERSIONS.items()
        ],
        "az role assignment list --scope $IP_PREFIX_ID": [{"Role": "Network Contributor"}],
        "az resource list -g $RG": [{"Name": CLUSTER}, {"Name": "pip-prefix-egress"}],
    }


def test_answers_without_a_table_are_what_azure_says(walk: Walk) -> None:
    """Queries, single objects, and things that are not there."""
    walk.through("Look around")
    plain = {
        "az group exists -n $RG": "true",
        "az group exists -n nope": "false",
        "az vmss show -g $MC -n $VMSS --query sku.capacity": "2",
        "az network lb show -g $MC -n kubeegressgateway-ilb --query 'probes[0].port'": "8082",
        "az vmss show -g $MC -n $VMSS --query 'tags.\"aks-managed-poolName\"' -o tsv": POOL,
        "az role assignment list --assignee $PRINCIPAL --scope $IP_PREFIX_ID"
        " --query '[].roleDefinitionName' -o tsv": "Network Contributor",
    }
    missing = {
        "az group show -n nope": "ResourceGroupNotFound",
        "az aks show -g $RG -n nope": "ResourceNotFound",
        "az aks nodepool show -g $RG --cluster-name $AKS -n nope": "ResourceNotFound",
        "az network public-ip prefix show -g $RG -n nope": "ResourceNotFound",
        "az network lb show -g $MC -n nope": "ResourceNotFound",
    }
    outcomes = walk.look([*plain, *missing])
    for command, answer in plain.items():
        assert (outcomes[command].text.strip(), outcomes[command].status) == (answer, 0), command
    for command, code in missing.items():
        assert f"({code})" in outcomes[command].text, command
        assert outcomes[command].status == 3, "az's own status for what is not there"


# -- changing things


def test_what_cannot_be_is_refused_with_the_reason(walk: Walk) -> None:
    in_use, too_many, feature = (o.text for o in walk.through("What is refused"))
    assert "(InUsePublicIpPrefixCannotBeDeleted)" in in_use
    assert "(StaticEgressGatewayInvalidGatewayNodeCount)" in too_many
    assert "exceeding max node count 4 according to public IPPrefix size /30" in too_many
    assert f"cannot be disabled while the cluster has gateway node pools ({POOL})" in feature


def test_scaling_out_adds_a_gateway(walk: Walk) -> None:
    seen = walk.one("More gateway nodes")
    assert tables.rows(seen)[0]["Count"] == "3"
    assert len(ready_nodes(seen)) == 3


def test_scaling_in_takes_it_away_and_the_pod_stays_in_the_prefix(walk: Walk) -> None:
    seen = walk.one("And fewer")
    assert tables.rows(seen)[0]["Count"] == "2"
    assert len(ready_nodes(seen)) == 2
    assert addresses(seen)[0] in prefix(walk)


def test_a_gateway_that_is_switched_off_is_left_and_comes_back(walk: Walk) -> None:
    seen = walk.one("A gateway that is switched off")
    states = re.findall(r"^\s*PowerState/(\w+) +(\d+)", seen, re.MULTILINE)
    assert states == [("deallocated", "1"), ("running", "1"), ("running", "2")]
    assert addresses(seen)[0] in prefix(walk)


def test_a_node_image_is_upgraded_in_place(walk: Walk) -> None:
    seen = walk.one("A new node image")
    before, after = re.findall(r"^AKSUbuntu-\S+$", seen, re.MULTILINE)
    assert before != after
    assert len(ready_nodes(seen)) == 2
    assert addresses(seen)[0] in prefix(walk)


def test_pods_with_a_gateway_ask_their_node_s_resolver(walk: Walk) -> None:
    seen = walk.one("LocalDNS")
    assert re.search(r"^nameserver 169\.254\.10\.11\s*$", seen, re.MULTILINE)
    assert addresses(seen)[-1] in prefix(walk)


def test_a_scale_set_of_az_vmss_create_gets_and_loses_its_addresses(walk: Walk) -> None:
    seen = walk.one("A scale set of one's own")
    given = re.findall(r"\b203\.0\.113\.\d+\b", seen)
    assert len(set(given)) == 2, "az vmss list-instance-public-ips"
    after = seen.rpartition("deleted from default namespace")[2]
    assert after.split()[0] == "0", "addresses of the scale set"


def test_an_address_of_ones_own_is_what_the_internet_sees(walk: Walk) -> None:
    walk.through("Another outbound address for all other pods")
    own = walk.look(["az network public-ip show -g $RG -n pip-outbound -o table"]).popitem()[1]
    address = tables.rows(own.text)[0]["Address"]
    assert str(until_seen(walk, ipaddress.IPv4Network(address))) == address
    assert curl(walk, "$POD") in prefix(walk)


def test_a_prefix_of_ones_own_is_what_the_internet_sees(walk: Walk) -> None:
    seen = walk.one("Or a prefix of them")
    own = ipaddress.IPv4Network(tables.rows(seen)[0]["IpPrefix"])
    assert own.prefixlen == 31
    until_seen(walk, own)
    freed = walk.terminal.run("az network public-ip delete -g $RG -n pip-outbound")
    assert freed.status == 0, "the address before is used no more"
    assert curl(walk, "$POD") in prefix(walk)


# -- taking it away


def test_the_pool_goes_and_leaves_nothing(walk: Walk) -> None:
    seen = walk.one("The configuration, then the pool")
    nodes = ready_nodes(seen)
    assert len(nodes) == 3
    assert not any(POOL in node for node in nodes)
    tables.require(seen, [{"Name": "kubernetes"}])


def test_the_feature_can_be_switched_off_and_on(walk: Walk) -> None:
    off, refused, on = (o.text for o in walk.through("The feature, off and on"))
    assert off.splitlines()[-1] == "false"
    assert "az aks update --enable-static-egress-gateway" in refused
    assert on.splitlines()[-1] == "true"


def test_a_pool_of_machines_has_nics_of_its_own(walk: Walk) -> None:
    too_old, upgraded, seen = (o.text for o in walk.through("A pool of virtual machines"))
    assert "StaticEgressGatewayOnlySupportVMSSNodepool" in too_old
    assert "needs Kubernetes 1.34 or later; the cluster has 1.30.5" in too_old
    assert re.search(rf"^default\s+{GROUP}\s+1\.30\.5\s+1\.30\.\d+, 1\.31", upgraded, re.MULTILINE)
    assert re.search(r"^nodepool1\s+Linux\s+1\.34\.1\s", upgraded, re.MULTILINE)
    for number in (0, 1):
        assert re.search(rf"^aks-npvm-\d+-vm{number}\s", seen, re.MULTILINE), "az vm list"
    for number in range(4):
        assert re.search(rf"\saks-npvm-\d+-nic{number}\s", seen), "a NIC for each address"
    (line,) = re.findall(r"^.*ipconfig1 .*$", seen, re.MULTILINE)
    assert re.search(r"\s10\.224\.0\.\d+\s", line), "az network nic ip-config list"


def test_a_machine_pool_scales_too(walk: Walk) -> None:
    walk.through("A pool of virtual machines")
    scaled = walk.terminal.run(
        "az aks nodepool scale -g $RG --cluster-name $AKS -n npvm --node-count 3\n"
        "az vm list -o table"
    )
    names = [{"Name": rf"aks-npvm-\d+-vm{number}"} for number in range(3)]
    tables.require(scaled.text, names)


def test_the_role_and_the_prefix_go(walk: Walk) -> None:
    (left,) = tables.rows(walk.one("The role and the prefix"))
    assert left["Name"] == "pip-prefix-outbound", "the one that is in use"


def test_a_group_goes_with_all_that_is_in_it(walk: Walk, desk: Desk) -> None:
    assert tables.rows(walk.one("Everything")) == []
    command = [str(Path(desk.environment["PATH"].split(":")[0]) / "kubectl"), "get", "nodes"]
    done = subprocess.run(
        command, env=desk.environment, capture_output=True, text=True, check=False
    )
    assert "Ready" not in done.stdout


# -- and nothing of it left the machine


def test_nothing_but_loopback_was_asked(walk: Walk, desk: Desk) -> None:
    walk.through("Everything")
    lines = desk.connections.read_text().splitlines()
    assert [line for line in lines if not line.startswith("inside ")] == []
    assert sum(" socket.connect 127.0.0.1 " in line for line in lines) > 100


def test_the_guard_would_have_noticed(tools: dict[str, str], desk: Desk, tmp_path: Path) -> None:
    """The az that is guarded here, sent to a closed proxy and to an outside address."""
    log = tmp_path / "connections"
    folder = tmp_path / "azure"
    folder.mkdir()
    environment = {**desk.environment, "EGRESS_GUARD_LOG": str(log)}
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        environment.pop(name)
    outside = "https://192.0.2.1"
    command = [f"{tools['bin']}/az", "cloud", "register", "-n", "x"]
    done = subprocess.run(
        [*command, "--endpoint-resource-manager", outside],
        env={**environment, "AZURE_CONFIG_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "OUTSIDE socket.getaddrinfo 192.0.2.1 443" in log.read_text(), done.stderr
