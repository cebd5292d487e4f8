"""From an earlier version to this one by helm, and back, under connections and requests of pods.

Nothing is released yet, so a commit stands for the version before (``EARLIER``; ``UPGRADE_FROM``
names another, or a tag). Its chart is installed, its code runs in an environment of its own, made
of its own lock. What nobody may see while agents of both versions are at work is a packet from a
wrong address, a connection that breaks, or a pod that cannot start.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress_gateway_lab import golang, host
from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.realcluster.filesystems.trees import filled
from egress_gateway_lab.runtime.kubelet.images import PREVIOUS
from tests.deploy.conftest import CHART, ROOT
from tests.deploy.installed import RELEASE, SYSTEM, WAIT, cluster
from tests.lab.conftest import POOL, configured
from tests.lab.steady import Echoes, answered, going_on

pytestmark = pytest.mark.root
EARLIER = os.environ.get("UPGRADE_FROM") or "0560b27e45415d8aca2245080128341537c9f0d7"
OBSERVED = "probe1.lab.example"
"""A host that only this test talks to: every packet that reaches it is accounted for."""
CHARTS = Path("deploy/chart/static-egress-gateway")
UV = ROOT / ".tools/bin/uv"


@pytest.fixture(scope="module")
def earlier() -> Path:
    """A checkout of the earlier version with an environment of its own, made once."""
    try:
        commit = git("rev-parse", "--verify", f"{EARLIER}^{{commit}}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"NO EARLIER VERSION: the upgrade was NOT tested: {error.stderr.strip()}")

    def fill(fresh: Path) -> None:
        archive = fresh / "tree.tar"
        git("archive", f"--output={archive}", commit.strip())
        run(["tar", "-C", str(fresh), "-xf", str(archive)])

    made = filled(golang.cache() / f"earlier-{commit[:12]}", fill)
    # Where nothing changed this takes half a second. Bytecode: nodes cannot write it.
    sync = [str(UV), "sync", "--quiet", "--locked", "--no-default-groups", "--all-extras"]
    run([*sync, "--compile-bytecode"], cwd=made)
    return made


def git(*arguments: str) -> str:
    """The checkout may be another user's than root's."""
    return run(["git", "-c", "safe.directory=*", *arguments])


def run(command: list[str], cwd: Path = ROOT) -> str:
    """Standard output. What goes wrong is the caller's."""
    ours = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    ours.setdefault("UV_COMPILE_BYTECODE_TIMEOUT", "900")  # as tools/bootstrap.sh
    return subprocess.run(
        command, cwd=cwd, env=ours, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def lab(clients: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[host.LabHandle]:
    host.require_host()
    monkeypatch.setenv(PREVIOUS, str(earlier))
    handle = host.start(f"upgrade-{os.getpid()}", detach=False)
    yield handle
    host.stop(handle, timeout=60)


async def test_an_upgrade_from_the_version_before_and_back_under_traffic(
    lab: host.LabHandle, clients: Path, earlier: Path
) -> None:
    async with cluster(lab, clients) as site:
        world = site.world
        before = ("--set", "image.repository=static-egress-gateway-previous")
        await site.install(*before, chart=earlier / CHARTS)
        await world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
        prefix = await configured(world, "moved")
        pods = await world.deploy("moved", configuration="moved", replicas=3)
        old = await agents(world)
        assert {image for image in old.values()} == {"static-egress-gateway-previous"}
        async with contextlib.AsyncExitStack() as stack:
            url = f"http://{OBSERVED}"
            traffic = [await stack.enter_async_context(Traffic(world, p, url)) for p in pods]
            streams = [await stack.enter_async_context(Echoes(world, p, OBSERVED)) for p in pods]
            await answered(traffic)
            await going_on(streams)
            # Whoever keeps the hosts of tunnels can wait by Helm 4's own rules.
            kept = f"wireguard.image={await hosts(world)}"
            ours = ("--set", f"image.repository=static-egress-gateway,{kept}", "--wait=watcher")
            await site.install(*ours, chart=CHART)
            new = await replaced(world, old)
            await world.deploy("later", configuration="moved", replicas=2)
            await answered(traffic)
            await going_on(streams)
            await site.helm("rollback", RELEASE, "1", *WAIT, "--wait=watcher")
            await replaced(world, new)
            await world.deploy("back", configuration="moved", replicas=2)
            await answered(traffic)
            await going_on(streams)
        assert await world.wrong_packets(OBSERVED, prefix) == 0
        asked = [r for t in traffic for r in t.requests]
        moments = [[r.at for r in t.requests if r.address] for t in traffic]
        silence = max(b - a for at in moments for a, b in itertools.pairwise(at))
        print(f"\n{len(asked)} requests, {sum(r.address is None for r in asked)} unanswered, "
              f"{silence:.1f} s the longest without an answer; "
              f"{len(streams)} connections went on")  # fmt: skip


async def hosts(world: World) -> str:
    """The image that tunnels' hosts run."""
    found = await world.kube.get("daemonsets", "egress-gateway-wireguard", namespace=SYSTEM)
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


async def agents(world: World) -> dict[str, str]:
    """By UID, the image of every pod of ours but the hosts of tunnels, which outlive upgrades."""
    return {
        pod["metadata"]["uid"]: pod["spec"]["containers"][0]["image"].partition(":")[0]
        for pod in await world.kube.list("pods", namespace=SYSTEM)
        if pod["metadata"]["labels"].get("app") != "egress-gateway-wireguard"
    }


async def replaced(world: World, before: dict[str, str]) -> dict[str, str]:
    """Waits until none of ``before`` is left: helm waits for their successors alone."""

    async def gone() -> bool:
        return not before.keys() & (await agents(world)).keys()

    await until(gone, timeout=240, what="every agent to be replaced")
    return await agents(world)
