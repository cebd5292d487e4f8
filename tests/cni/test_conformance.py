"""Behind the real plugins, called as runtimes call them: nothing of their work is lost or changed.

Debian's plugins speak CNI up to 1.0.0. What 1.1.0 added is held with the current ones, and with
libcni's own client, where they have been built (``make kubernetes``; mark ``kube``).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cni import binary, conflist, protocol
from egress_gateway.cni.install import Installer
from egress_gateway.datapath.linux import netns
from egress_gateway_lab.realcluster import binaries
from tests.cni.plugin_calls import agent
from tests.cni.runtime import REAL_PLUGINS, CniError, Runtime, Sandbox
from tests.datapath.box import boxed

RUN, CONF, BIN = (Path("/run/egress-gateway"), Path("/run/net.d"), Path("/run/bin"))
IPAM = {
    "type": "host-local",
    "dataDir": "/run/ipam",
    "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}
BRIDGE = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": IPAM}
PTP = {"type": "ptp", "ipam": IPAM}
NO_DEFAULT = {"type": "ptp", "ipam": {k: v for k, v in IPAM.items() if k != "routes"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
CHAINS: list[list[dict[str, Any]]] = [
    [BRIDGE],
    [PTP],
    [BRIDGE, PORTMAP],
    [PTP, PORTMAP],
    [NO_DEFAULT],
]
ANNOTATED = {names.CNI_CAPABILITY: {names.POD_ANNOTATION: "egress", "other": "x"}}
NUMBERS = itertools.count(1)


def node(
    plugins: list[dict[str, Any]], version: str, *, real: Path = REAL_PLUGINS, timeout: float = 15
) -> Runtime:
    """A node with the chain, and our plugin put into it as the agent does."""
    for folder in (CONF, RUN):
        folder.mkdir(exist_ok=True)
    network = {"cniVersion": version, "name": "lab", "plugins": plugins}
    (CONF / "10-lab.conflist").write_text(json.dumps(network))
    entry = conflist.entry(run_dir=str(RUN), agent_timeout=timeout)
    Installer(plugin=binary.path(), bin_dir=BIN, conf_dir=CONF, entry=entry).converge()
    return Runtime(CONF, BIN, real)


def sandbox(capabilities: dict[str, Any] | None = None) -> Sandbox:
    """A new pod, its namespace made by the runtime."""
    name = f"pod-{next(NUMBERS)}"
    netns.DIRECTORY.mkdir(exist_ok=True)
    with netns.create(name) as made:
        # Plugins wait for IPv6's duplicate address detection, a second each.
        made.run(lambda: Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0"))
    return Sandbox(name, f"/run/netns/{name}", capabilities=capabilities or {})


def records() -> list[str]:
    return sorted(os.listdir(RUN / "pods")) if (RUN / "pods").exists() else []


def passes_on_what_the_chain_gave(
    runtime: Runtime, version: str, pod: Sandbox, *, check: bool = True
) -> None:
    result = runtime.add(pod)
    *before, (last, printed) = runtime.printed
    assert last == names.CNI_PLUGIN
    given = json.loads(before[-1][1])
    assert json.loads(printed) == given == result
    assert result["cniVersion"] == version
    assert {ip["address"].partition("/")[2] for ip in result["ips"]} == {"24", "64"}
    # The kernel agrees with the result.
    links = subprocess.run(
        ["nsenter", f"--net={pod.netns}", "ip", "-br", "link"], capture_output=True, check=True
    )
    assert b"eth0" in links.stdout
    if check and version >= "0.4.0":
        runtime.check(pod)


@boxed
def test_results_of_every_chain_and_version_go_through() -> None:
    for version in ("0.3.0", "0.3.1", "0.4.0", "1.0.0"):
        for plugins in CHAINS if version in ("0.3.1", "1.0.0") else CHAINS[:1]:
            runtime = node(plugins, version)
            ports = PORTS if PORTMAP in plugins else {}
            with agent(RUN) as fake:
                for capabilities in (ports, ports | ANNOTATED):
                    pod = sandbox(capabilities)
                    # Debian's portmap finds fault with its own rules of two families.
                    passes_on_what_the_chain_gave(runtime, version, pod, check=not ports)
                    runtime.delete(pod)
            # The annotated one was asked about, with what the runtime knows of it.
            [asked] = fake.requests
            assert asked["netns"] == pod.netns
            told = protocol.decode(json.dumps(asked).encode())
            assert told.configuration == "egress"
            assert len(told.addresses) == 2
            assert records() == []
            (RUN / "cni.sock").unlink()


@boxed
def test_delete_succeeds_whatever_is_gone() -> None:
    """And a second time, and without an ADD: the runtime repeats it until it succeeds."""
    runtime = node([PTP], "1.0.0")
    for gone in ("nothing", "namespace", "record", "result", "agent", "all"):
        pod = sandbox(ANNOTATED)
        with agent(RUN):
            runtime.add(pod)
        (RUN / "attached").mkdir(exist_ok=True)
        attachment = RUN / "attached" / f"{pod.container}-eth0.json"
        attachment.write_text("{}")  # the agent leaves it, and is not there any more
        if gone in ("namespace", "all"):
            netns.delete(pod.container)
        if gone in ("record", "all"):
            (RUN / "pods" / f"{pod.container}-eth0.json").unlink()
        if gone in ("result", "all"):
            runtime = Runtime(CONF, BIN, REAL_PLUGINS)
        if gone in ("agent", "all"):
            (RUN / "cni.sock").unlink()
        if gone == "all":
            attachment.unlink()
        for _ in range(2):
            runtime.delete(pod)
        assert records() == []
        runtime.delete(Sandbox(pod.container, netns=""))
        (RUN / "cni.sock").unlink(missing_ok=True)
    runtime.delete(Sandbox("never-seen", "/run/netns/never-seen"))
    subprocess.run(["rm", "-rf", str(RUN)], check=True)
    runtime.delete(Sandbox("no-run-directory"))


@boxed
def test_failed_add_can_be_repeated() -> None:
    """Code 11, then DEL and a new sandbox, as kubelets do; addresses are given back."""
    runtime = node([BRIDGE], "1.0.0")
    for _ in range(3):
        pod = sandbox(ANNOTATED)
        with pytest.raises(CniError) as refused:
            runtime.add(pod)
        answer = refused.value.answer
        assert refused.value.plugin == names.CNI_PLUGIN
        assert set(answer) == {"cniVersion", "code", "msg", "details"}
        assert (answer["cniVersion"], answer["code"]) == ("1.0.0", protocol.TRY_AGAIN)
        runtime.delete(pod)
    assert records() == []
    assert len(list(Path("/run/ipam/lab").glob("10.*"))) == 0
    with agent(RUN):
        runtime.add(sandbox(ANNOTATED))


@boxed
def test_second_interface_is_an_attachment_of_its_own() -> None:
    """A meta-plugin calls the chain once more, for the same container."""
    runtime = node([BRIDGE], "1.0.0")
    first = sandbox()
    second = Sandbox(first.container, first.netns, interface="net1")
    for pod in (first, second):
        assert runtime.add(pod)["interfaces"][-1]["name"] == pod.interface
    assert records() == [f"{first.container}-eth0.json", f"{first.container}-net1.json"]
    runtime.delete(second)
    assert records() == [f"{first.container}-eth0.json"]
    runtime.check(first)
    runtime.delete(first)
    assert records() == []


# -- 1.1.0


@pytest.fixture
def current_plugins() -> None:
    try:
        binaries.find(*binaries.CNI, *binaries.CNI_CLIENT)
    except binaries.Unavailable as error:
        pytest.skip(f"NO CURRENT CNI PLUGINS: CNI 1.1 was not tested behind them: {error}")


@pytest.mark.kube
@pytest.mark.usefixtures("current_plugins")
@boxed
def test_verbs_of_the_newest_version() -> None:
    runtime = node([BRIDGE, PORTMAP], "1.1.0", real=binaries.find(*binaries.CNI).cni)
    runtime.status()
    kept, lost = sandbox(), sandbox(PORTS)
    for pod in (kept, lost):
        passes_on_what_the_chain_gave(runtime, "1.1.0", pod)
    with agent(RUN) as fake:
        runtime.collect([kept])
        runtime.status()
    [asked] = fake.requests
    assert asked["command"] == "GC"
    told = protocol.decode(json.dumps(asked).encode()).config.valid_attachments
    assert told == [protocol.ValidAttachment(container_id=kept.container, if_name="eth0")]
    runtime.check(kept)
    (RUN / "cni.sock").unlink()
    runtime.collect([])  # and without the agent
    runtime.status()


@pytest.mark.kube
@pytest.mark.usefixtures("current_plugins")
@boxed
def test_libcni_itself() -> None:
    """cnitool is libcni with a command line: its own order, its own cache, its own conversions."""
    found = binaries.find(*binaries.CNI, *binaries.CNI_CLIENT)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)  # its cache

    def cnitool(verb: str, pod: Sandbox, *, fails: bool = False) -> str:
        done = subprocess.run(
            [str(found["cnitool"]), verb, "lab", pod.netns],
            env={
                "NETCONFPATH": str(CONF),
                "CNI_PATH": f"{BIN}:{found.cni}",
                "CNI_ARGS": pod.args,
                "CAP_ARGS": json.dumps(pod.capabilities),
                "PATH": os.environ["PATH"],
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done
        return done.stdout + done.stderr

    for version in ("0.3.1", "0.4.0", "1.0.0", "1.1.0"):
        node([BRIDGE, PORTMAP], version, timeout=1)
        for capabilities in (PORTS, PORTS | ANNOTATED):
            pod = sandbox(capabilities)
            with agent(RUN) as fake:
                result = json.loads(cnitool("add", pod))
                if version >= "0.4.0":
                    cnitool("check", pod)
                if version >= "1.1.0":
                    cnitool("status", pod)
            assert result["cniVersion"] == version
            assert len(result["ips"]) == 2
            assert [r["command"] for r in fake.requests] == ["ADD"] * (capabilities != PORTS)
            (RUN / "cni.sock").unlink()
            cnitool("del", pod)
            cnitool("del", pod)
        pod = sandbox(ANNOTATED)
        assert "the node agent does not answer" in cnitool("add", pod, fails=True)
        cnitool("del", pod)
        assert records() == []
