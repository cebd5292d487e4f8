"""The chart, installed for real: a lab's cluster, the real helm, packets that show that it works.

The lab's own installation (the plain manifests) is taken over, as on any cluster that began so.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway_lab import host
from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import until
from tests.deploy.conftest import ROOT
from tests.deploy.installed import RELEASE, SYSTEM, Site, cluster
from tests.lab.conftest import POOL, configured
from tests.lab.test_running_pods import cut

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab(clients: Path) -> Iterator[host.LabHandle]:
    host.require_host()
    handle = host.start(f"deploy-{os.getpid()}", detach=False)
    yield handle
    host.stop(handle, timeout=60)


async def test_installed_upgraded_and_removed(
    lab: host.LabHandle, clients: Path, tmp_path: Path
) -> None:
    async with cluster(lab, clients) as site:
        await every_document_is_accepted(site)
        await site.install("--take-ownership", "--force-conflicts")
        await site.world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
        prefix = await configured(site.world, "chart")
        (pod,) = await site.world.deploy("chart", configuration="chart", replicas=1)
        await an_upgrade_leaves_grants_and_traffic_alone(site, pod, IPv4Network(prefix))
        await the_chart_proves_itself(site)
        await configurations_hinder_removal(site)
        await removal_restores_the_chains(site)
        await site.install("--force-conflicts")  # over the definitions that stayed
        assert await site.world.nodes()
        await site.helm("uninstall", RELEASE, "--wait")
        await kubectl_alone_installs_it_where_nothing_is(site, tmp_path)


async def every_document_is_accepted(site: Site) -> None:
    folders = [str(ROOT / "deploy" / name) for name in ("crds", "manifests")]
    arguments = ["apply", "--dry-run=server", "--validate=strict"]
    for folder in folders:
        arguments += ["-f", folder]
    said = await site.call("kubectl", *arguments)
    files = [file for folder in folders for file in Path(folder).glob("*.yaml")]
    written = [d for file in files for d in yaml.safe_load_all(file.read_text())]
    assert said.count("(server dry run)") == len(written) > 20


async def an_upgrade_leaves_grants_and_traffic_alone(
    site: Site, pod: str, prefix: IPv4Network
) -> None:
    before = await site.world.kube.get("roles", "egress-gateway-keys", namespace=SYSTEM)
    assert before["rules"]
    async with Traffic(site.world, pod, "http://ifconfig.me") as traffic:
        await until(lambda: _some(traffic), timeout=120, what="the first answer")
        # What kubectl apply has set before it sets still, until Helm is told to take it.
        changed = "node.settings.attachTimeout=12,logging.level=debug"
        await site.install("--force-conflicts", "--set", changed)
        upgraded = time.time()
        await until(
            lambda: traffic.answered_after(upgraded), timeout=120, what="an answer after it"
        )
    answers = [r.address for r in traffic.requests if r.address]
    assert [a for a in answers if IPv4Address(a) not in prefix] == []
    after = await site.world.kube.get("roles", "egress-gateway-keys", namespace=SYSTEM)
    assert after["rules"] == before["rules"]


async def _some(traffic: Traffic) -> bool:
    return traffic.last_address is not None


async def the_chart_proves_itself(site: Site) -> None:
    """``helm test`` sends packets, says what is wrong, and leaves nothing either way."""
    said = await site.helm("test", RELEASE, "--timeout", "180s")
    assert "Phase:          Succeeded" in said, said
    for check in ("egress-gateway-node", "egress", "full size", "dns"):
        assert any("✓" in line and check in line for line in said.splitlines()), said
    await nothing_of_it_is_left(site)
    nodes = [n["metadata"]["name"] for n in await site.world.nodes(pool=POOL)]
    async with cut(site.world, "tunnels", *nodes):
        said = await site.helm("test", RELEASE, "--timeout", "240s", fails=True)
    assert "UDP" in said, said
    await nothing_of_it_is_left(site)


async def nothing_of_it_is_left(site: Site) -> None:
    group = "rbac.authorization.k8s.io/v1"
    policy = "admissionregistration.k8s.io/v1"
    for kind in (
        "pods",
        "serviceaccounts",
        f"roles.{group}",
        f"rolebindings.{group}",
        f"clusterroles.{group}",
        f"clusterrolebindings.{group}",
        f"validatingadmissionpolicies.{policy}",
        f"validatingadmissionpolicybindings.{policy}",
    ):
        found = [o["metadata"]["name"] for o in await site.world.kube.list(kind)]
        assert not [name for name in found if name.startswith("egress-gateway-test")], kind


async def configurations_hinder_removal(site: Site) -> None:
    said = await site.helm("uninstall", RELEASE, "--wait", fails=True)
    assert "StaticGatewayConfigurations exist: default/chart" in said
    await site.world.kube.delete("deployments", "chart", namespace="default")
    await site.world.kube.delete("staticgatewayconfigurations", "chart", namespace="default")

    async def gone() -> bool:
        return not await site.world.kube.list("staticgatewayconfigurations", namespace="default")

    await until(gone, timeout=240, what="the configuration to go")


async def removal_restores_the_chains(site: Site) -> None:
    for text in (await site.chains("*.conflist")).values():
        assert names.CNI_PLUGIN in text
    originals = await site.chains("*.before-egress-gateway")
    await site.helm("uninstall", RELEASE, "--wait")
    assert await site.chains() == originals
    for text in originals.values():
        assert '"plugins"' in text
        assert names.CNI_PLUGIN not in text
    for node in await site.world.nodes():
        assert names.NODE_READY_LABEL not in node["metadata"]["labels"]
    assert not await site.world.kube.list("daemonsets", namespace=SYSTEM)
    assert len(await site.world.kube.list("customresourcedefinitions")) == 3


async def kubectl_alone_installs_it_where_nothing_is(site: Site, folder: Path) -> None:
    """As the page has it, without the webhook, which this API server has no kind for."""
    await site.call("kubectl", "delete", "namespace", SYSTEM)
    page = (ROOT / "docs/install/self-managed.md").read_text().partition("## 6.")[2]
    typed = page.partition("```sh\n")[2].partition("```")[0].splitlines()
    (folder / "azure.json").write_text("{}")
    for line in typed:
        line = line.replace("deploy/", f"{ROOT}/deploy/").replace(
            "=azure.json", f"={folder}/azure.json"
        )
        if "manifests/webhook" not in line:
            await site.call(*shlex.split(line, comments=True))
    for made in ("configmap/egress-gateway", "deployment/egress-gateway-controller"):
        await site.call("kubectl", "-n", SYSTEM, "get", made)
    for agent in ("gateway", "node"):
        await site.call(
            *("kubectl", "-n", SYSTEM, "rollout", "status", "--timeout=240s"),
            f"daemonset/egress-gateway-{agent}",
        )
