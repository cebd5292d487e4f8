"""One archive for a ticket: all that it needs, and nothing that is secret."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_running_pods import becomes

pytestmark = pytest.mark.root
SYSTEM = names.SYSTEM_NAMESPACE

# Each is planted where people put such things by mistake. Some are known by where they stand, some
# by their form, some by the word beside them.
PLANTED = {
    "annotation": "plain-Words-4711-annotation",
    "label": "label-secret-8842x",
    "environment": "env1ronment-Value-99",
    "setting": "1n-Our-ConfigMap-77",
    "other-map": "0ther-ConfigMap-5521",
    "secret": "correct-h0rse-battery",
    "copied": "c0pied-out-of-a-Secret",
    "condition": "Zm9vYmFyMTIzNDU2Nzg5MHF3ZXJ0eXVpb3A=",
    "bearer": "f3Jhk2Lq9sXw7TbN4vCz8Mn5",
    "log-password": "hunter2hunter",
    "log-key": "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    "log-jwt": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJlLW9mLW1pbmU",
    "log-hex": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "log-azure": "Q1w8Q~E2r3T4y5U6i7O8p9A0s1D2f3G4h5J6k7L8",
    "log-url": "s3cret.in.url",
    "ended": "last-w0rds-of-a-pr0gram",
    "kubeconfig": "t0ken-of-another-user-31",
}


async def plant(world: World, pod: str) -> None:
    """Everywhere."""
    kube, p = world.kube, PLANTED
    meta = {"annotations": {"example.com/note": p["annotation"]}}
    meta["labels"] = {"example.com/x": p["label"]}
    await kube.patch(  # the pod is a foreign one that asks for a gateway
        "pods", pod, {"metadata": meta}, namespace="default"
    )
    await kube.patch(
        "staticgatewayconfigurations", "packed", {"metadata": meta}, namespace="default"
    )
    said = {"type": "Example", "status": "True", "message": f"the key is {p['condition']}"}
    await kube.patch(
        "pods", pod, {"status": {"conditions": [said]}}, namespace="default", subresource="status"
    )
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}
    secret["metadata"] = {"name": "planted", "namespace": SYSTEM}  # type: ignore[assignment]
    secret["stringData"] = {"a": p["secret"], "b": p["copied"]}  # type: ignore[assignment]
    await kube.create("secrets", secret)
    await kube.patch(
        "configmaps", "egress-gateway", {"data": {"note": p["setting"]}}, namespace=SYSTEM
    )
    other = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": p["other-map"]}}
    other["metadata"] = {"name": "other", "namespace": SYSTEM}
    await kube.create("configmaps", other)
    await kube.create("events", event(pod, f"Authorization: Bearer {p['bearer']}"))
    lines = [
        f"password={p['log-password']}",
        f'{{"msg": "started", "privateKey": "{p["log-key"]}"}}',
        f"key {p['log-key']}",
        f"token {p['log-jwt']}",
        f"digest {p['log-hex']}",
        f"client {p['log-azure']}",
        f"GET https://user:{p['log-url']}@example.com/",
        f"again {p['copied']}, {base64.b64encode(p['copied'].encode()).decode()} and "
        f"{p['copied'].encode().hex()}",
        f"in the middle {base64.b64encode(('x' + p['copied'] + 'y').encode()).decode()}",
        f"somebody is {p['kubeconfig']}",
        f"the environment has {p['environment']}",
    ]
    container = {"name": "c", "image": "busybox"}
    script = "cat <<'END'\n" + "\n".join(lines) + "\nEND\n"
    script += f"echo {p['ended']} > /dev/termination-log; sleep 1000"
    container |= {"command": ["sh", "-c"], "args": [script]}  # type: ignore[dict-item]
    container |= {"env": [{"name": "PLAIN", "value": p["environment"]}]}  # type: ignore[dict-item]
    ours = {"app.kubernetes.io/name": "static-egress-gateway"}
    await kube.create(
        "pods",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "talker", "namespace": SYSTEM, "labels": ours},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        },
    )

    async def spoken() -> bool:
        try:
            return "the environment" in await kube.logs(SYSTEM, "talker")
        except Exception:
            return False

    await until(spoken, timeout=120, what="the talker to have spoken")


def event(pod: str, message: str) -> dict[str, Any]:
    about = {"kind": "Pod", "namespace": "default", "name": pod, "apiVersion": "v1"}
    meta = {"name": "planted", "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": meta,
        "involvedObject": about,
        "reason": "Planted",
        "message": message,
        "type": "Normal",
    }


def forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    coded = [base64.b64encode(b"x" * n + raw).rstrip(b"=")[2 * n : -2] for n in range(3)]
    return [raw, *coded, base64.urlsafe_b64encode(raw).rstrip(b"="), raw.hex().encode()]


def leaks(archive: Path) -> list[str]:
    """Where what was planted is found, in any form. The names of files count too."""
    found = []
    with tarfile.open(archive) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            content = entry.name.encode() + b"\n" + (file.read() if file else b"")
            for what, secret in PLANTED.items():
                for form in forms(secret):
                    if form.lower() in content.lower():
                        at = content.lower().index(form.lower())
                        found.append(f"{what} in {entry.name}: …{content[at - 40 : at + 60]!r}…")
    return found


def read(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        files = {e.name.partition("/")[2]: tar.extractfile(e) for e in tar}
        return {name: file.read().decode() for name, file in files.items() if file}


async def bundled(kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    """``egress-gateway bundle``: exit code, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress_gateway.cli.main", "bundle", *arguments),
        *("--kubeconfig", str(kubeconfig)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def with_another_user(world: World, folder: Path) -> Path:
    """The lab's kubeconfig, with a user more; a component happens to write that one's token."""
    document = yaml.safe_load(world.lab.kubeconfig.read_text())
    document["users"].append({"name": "other", "user": {"token": PLANTED["kubeconfig"]}})
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


async def test_a_ticket_has_all_that_it_needs_and_nothing_secret(
    world: World, tmp_path: Path
) -> None:
    await configured(world, "packed")
    (pod,) = await world.deploy("packed", configuration="packed", replicas=1)
    await becomes(world, pod, "Connected")
    await plant(world, pod)
    archive = tmp_path / "ticket.tar.gz"
    code, said = await bundled(with_another_user(world, tmp_path), "--output", str(archive))
    assert code == 0, said
    assert archive.stat().st_mode & 0o777 == 0o600
    assert not leaks(archive)
    files = read(archive)
    print("\n".join(f"{len(text):8} {name}" for name, text in files.items()), files["not-read.txt"])
    endpoints = json.loads(files["objects/podendpoints.json"])  # a pod of before may still end
    endpoint = next(e for e in endpoints if e["metadata"]["name"] == pod)
    # Public keys look like private ones and stay.
    key = endpoint["spec"]["podPublicKey"]
    assert len(base64.b64decode(key)) == 32
    assert any(
        key in text for name, text in files.items() if "gateway" in name and "nodes/" in name
    )
    (sgc,) = json.loads(files["objects/staticgatewayconfigurations.json"])
    assert {c["type"] for c in sgc["status"]["conditions"]} >= {"Ready", "Degraded"}
    assert "talker" in files["objects/components.json"]
    assert "Connected" in files["status.txt"]
    assert any("egress_gateway_controller" in t for n, t in files.items() if "metrics" in n)
    inspected = [json.loads(t) for n, t in files.items() if n.startswith("nodes/") and ".json" in n]
    assert any(i.get("gateway", {}).get("tunnels") for i in inspected)
    (inside,) = [found for i in inspected if (found := i.get(f"pod default/{pod}"))]
    assert inside["tunnels"]["wg0"]["peers"], "the tunnel that the pod uses"
    assert any("PLAIN" in text for text in files.values()), "names stay"
    assert files["logs/talker/c.log"].count("<redacted-") >= 10
    code, said = await bundled(world.lab.kubeconfig, "--output", str(archive))
    assert code == 1, "an archive is not overwritten"
    for kind, name in (("pods", "talker"), ("secrets", "planted"), ("configmaps", "other")):
        await world.kube.delete(kind, name, namespace=SYSTEM, grace_seconds=0)
    await world.kube.patch(
        "configmaps", "egress-gateway", {"data": {"note": None}}, namespace=SYSTEM
    )
    await world.kube.delete("deployments", "packed", namespace="default")
    await remove(world, "packed")


async def test_a_persons_own_rights_are_enough_and_the_rest_is_said(
    world: World, tmp_path: Path
) -> None:
    mine = await kubeconfig_of_a_viewer(world, tmp_path)
    archive = tmp_path / "mine.tar.gz"
    code, said = await bundled(mine, "--namespace", "default", "--output", str(archive))
    assert code == 0, said
    assert "not read: Nodes" in said
    files = read(archive)
    assert "Secrets" in files["not-read.txt"]
    assert "forbidden" in files["not-read.txt"]
    token = yaml.safe_load(mine.read_text())["users"][0]["user"]["token"]
    assert not any(token in text for text in files.values())


async def kubeconfig_of_a_viewer(world: World, folder: Path) -> Path:
    """Of an account that may see our kinds in ``default``, and nothing else."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    await world.kube.apply(
        {**account, "metadata": {"name": "viewer", "namespace": "default"}},
        resource="serviceaccounts",
    )
    group = "rbac.authorization.k8s.io"
    await world.kube.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "viewer", "namespace": "default"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "egress-gateway-view"},
            "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": "default"}],
        },
        resource="rolebindings",
    )
    asked = await world.kube.call(
        "POST", "/api/v1/namespaces/default/serviceaccounts/viewer/token", body={}
    )
    document = yaml.safe_load(world.lab.kubeconfig.read_text())
    document["users"] = [{"name": "me", "user": {"token": asked["status"]["token"]}}]
    document["contexts"][0]["context"]["user"] = "me"
    path = folder / "mine"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_who_is_interrupted_leaves_nothing(
    world: World, tmp_path: Path, number: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress_gateway.cli.main", "bundle"),
        *("--kubeconfig", str(world.lab.kubeconfig)),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )

    async def writing() -> bool:
        """It has opened the file that has no name yet."""
        assert process.returncode is None, "it ended before it was interrupted"
        for file in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if str(tmp_path) in str(file.readlink()):
                    return True
        return False

    await until(writing, timeout=120, what="the archive to be begun")
    process.send_signal(number)
    _, error = await process.communicate()
    assert process.returncode != 0
    assert b"Traceback" not in error
    assert list(tmp_path.iterdir()) == []
