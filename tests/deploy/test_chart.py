"""The chart: what it renders for which values and which cluster, and what it refuses."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

from egress_gateway.api import names
from egress_gateway.gateway.settings import STUN_SERVERS
from tests.deploy.conftest import CHART, Document, Helm, tool

Render = Callable[..., list[Document]]
MUTATING, VALIDATING = "MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"
TEST = "egress-gateway-test"
WEBHOOK, HOOKS = "egress-gateway-webhook", "MutatingWebhookConfiguration"
EVERYTHING = (
    "namespace.create=true",
    "azure.config.subscriptionID=s",
    "azure.caBundle=PEM",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "dashboard.enabled=true",
    "echo.enabled=true",
    "image.pullSecrets[0]=registry",
    'controller.tolerations=[{"operator": "Exists"}]',
    'controller.affinity={"nodeAffinity": {}}',
    'controller.podAnnotations={"a/b": "c"}',
    'node.serviceAccountAnnotations={"a/b": "c"}',
    "node.settings.probeInterval=0.5",
    "logging.level=debug",
)


def kinds(documents: list[Document]) -> Counter[str]:
    return Counter(document["kind"] for document in documents)


def find(documents: list[Document], kind: str, name: str) -> Document:
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


def container(documents: list[Document], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = find(documents, kind, name)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_lint(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("image.repository=registry.example/seg", "azure.config.tenantId=t"), []),
        (("azure.config.tenantId=t",), ["names no registry"]),
        ((), ["names no registry", "waits for the Secret"]),
    ],
)
def test_notes_say_what_is_missing(helm: Helm, given: tuple[str, ...], missing: list[str]) -> None:
    said = helm(
        *("install", "x", str(CHART), "--dry-run=client"),
        *(word for value in given for word in ("--set", value)),
    ).partition("NOTES:")[2]
    known = ("names no registry", "waits for the Secret")
    assert [words for words in known if words in said] == missing
    # Of pools with a name only those of the add-on have what is asked of them.
    assert "gatewayVmssProfile" in said
    assert "gatewayNodepoolName" not in said


def test_defaults(render: Render) -> None:
    found = render()
    assert (
        kinds(found).items()
        >= {
            "ConfigMap": 1,
            "CustomResourceDefinition": 3,
            "DaemonSet": 3,
            "Deployment": 2,
            "MutatingWebhookConfiguration": 1,
            "NetworkPolicy": 2,
            "PodDisruptionBudget": 2,
            "ServiceAccount": 4,
        }.items()
    )
    assert kinds(found)["Role"] == kinds(found)["RoleBinding"] >= 3
    # Two are part of Kubernetes' own roles, which people have.
    assert kinds(found)["ClusterRole"] - 2 == kinds(found)["ClusterRoleBinding"] >= 3
    assert not {"Namespace", "Pod"} & kinds(found).keys()
    assert [d["metadata"]["name"] for d in found if d["kind"] == "Secret"] == [WEBHOOK]
    for document in found:
        assert document["metadata"].get("namespace", "somewhere") == "somewhere"


def test_everything_at_once(render: Render) -> None:
    found = render(*EVERYTHING, apis=(f"v1/{MUTATING}", f"v1/{VALIDATING}"), hooks=True)
    assert kinds(found)["Namespace"] == 1
    assert kinds(found)["ServiceMonitor"] == 1
    secret = find(found, "Secret", "egress-gateway-azure")
    assert json.loads(secret["stringData"]["azure.json"]) == {"subscriptionID": "s"}
    assert secret["stringData"]["ca.crt"] == "PEM"
    controller = find(found, "Deployment", "egress-gateway-controller")["spec"]["template"]
    assert controller["metadata"]["annotations"].keys() == {"checksum/azure", "a/b"}
    assert controller["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    env = {
        e["name"]: e.get("value")
        for e in container(found, "DaemonSet", "egress-gateway-node")["env"]
    }
    assert env["EGRESS_GATEWAY_PROBE_INTERVAL"] == "0.5"
    assert env["EGRESS_GATEWAY_LOG_LEVEL"] == "debug"


def test_what_can_be_left_out_is_left_out(render: Render) -> None:
    found = render(
        "crds.install=false",
        "wireguard.enabled=false",
        "networkPolicy.enabled=false",
        "controller.podDisruptionBudget.enabled=false",
        "admission.mode=none",
        "admission.writers=false",
        "admission.hints=false",
        "uninstall.hook=false",
        apis=(f"v1/{MUTATING}", f"v1/{VALIDATING}"),
        hooks=True,
    )
    found = [d for d in found if d["metadata"]["name"] != TEST]
    assert kinds(found)["DaemonSet"] == 2
    gone = {
        "CustomResourceDefinition",
        "NetworkPolicy",
        "PodDisruptionBudget",
        MUTATING,
        VALIDATING,
        HOOKS,
        "Pod",
        "Secret",
    }
    assert not gone & kinds(found).keys()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("node.setings.x=1", "'setings' not allowed"),
        ("node.settings.probeInterva=1", "'probeInterva' not allowed"),
        ("node.settings.probeInterval=0", "/node/settings/probeInterval"),
        ("node.settings.probeInterval=soon", "/node/settings/probeInterval"),
        ("controller.replicas=two", "want integer"),
        ("controller.settings.leaderElect=false", "/controller/replicas"),
        ("cluster.cidrs=[]", "minItems"),
        ('cluster.cidrs=["10.0.0.0"]', "/cluster/cidrs/0"),
        ("image.digest=latest", "/image/digest"),
        ("wireguard.image=registry.example:5000/no-tag", "/wireguard/image"),
        ("wireguard.image=registry.example/x@sha256:beef", "/wireguard/image"),
        ("node.cniBinDir=opt/cni/bin", "/node/cniBinDir"),
        ("node.maxUnavailable=0", "/node/maxUnavailable"),
        ("node.healthPort=70000", "/node/healthPort"),
        ("networkPolicy.egressPorts=[]", "/networkPolicy/egressPorts"),
        ("admission.mode=maybe", "/admission/mode"),
        ("admission.pods=true", "'pods' not allowed"),
        ("webhook.replicas=0", "/webhook/replicas"),
        ("webhook.settings.port=1", "'port' not allowed"),
        ("admission.mode=policy", "serves no MutatingAdmissionPolicy"),
    ],
)
def test_nonsense_is_refused_by_name(helm: Helm, value: str, said: str) -> None:
    option = "--set-json" if value.endswith("]") else "--set"
    assert said in helm("template", "x", str(CHART), option, value, fails=True)


def test_schema_knows_exactly_the_settings_of_each_program() -> None:
    schema = tool("pages/chart_schema")
    assert "driftInterval" in schema.settings("controller")
    for component, managed in schema.MANAGED.items():
        settings = importlib.import_module(f"egress_gateway.{component}.settings").Settings
        existing = {f.name for f in msgspec.structs.fields(settings)}
        assert managed - schema.EVERYWHERE <= existing


@pytest.mark.parametrize(
    ("apis", "rendered"),
    [
        ((), {}),
        ((f"v1/{VALIDATING}",), {VALIDATING: 8}),  # the webhook's own
        ((f"v1/{VALIDATING}", f"v1beta1/{MUTATING}"), {VALIDATING: 7, MUTATING: 1}),
        (
            (f"v1/{VALIDATING}", f"v1/{MUTATING}", f"v1beta1/{MUTATING}"),
            {VALIDATING: 7, MUTATING: 1},
        ),
    ],
)
def test_policies_only_where_the_api_has_them(
    render: Render, apis: tuple[str, ...], rendered: dict[str, int]
) -> None:
    found = render(apis=apis)
    present = {k: n for k, n in kinds(found).items() if k in (MUTATING, VALIDATING)}
    assert present == rendered
    for kind, number in rendered.items():
        assert kinds(found)[f"{kind}Binding"] == number
    versions = {d["apiVersion"].rpartition("/")[2] for d in found if d["kind"] == MUTATING}
    newest = "v1" if f"v1/{MUTATING}" in apis else "v1beta1"
    assert versions == ({newest} if MUTATING in rendered else set())


@pytest.mark.parametrize(
    ("mode", "apis", "chosen"),
    [
        ("auto", (), HOOKS),
        ("auto", (f"v1/{VALIDATING}",), HOOKS),
        ("auto", (f"v1beta1/{MUTATING}",), MUTATING),
        ("auto", (f"v1/{MUTATING}",), MUTATING),
        ("policy", (f"v1/{MUTATING}",), MUTATING),
        ("webhook", (f"v1/{MUTATING}",), HOOKS),
        ("none", (f"v1/{MUTATING}",), ""),
        ("none", (), ""),
    ],
)
def test_annotated_pods_are_admitted_by_one_of_two(
    render: Render, mode: str, apis: tuple[str, ...], chosen: str
) -> None:
    found = render(f"admission.mode={mode}", apis=apis)
    assert {MUTATING, HOOKS} & kinds(found).keys() == ({chosen} if chosen else set())
    of_the_webhook = {
        d["kind"] for d in found if d["metadata"]["name"] == WEBHOOK and d["kind"] != "Role"
    }
    assert bool(of_the_webhook) == (chosen == HOOKS)


def test_webhook_is_filled_by_itself_and_may_write_nothing_else(render: Render) -> None:
    found = render("webhook.settings.interval=5", "webhook.replicas=3")
    assert "webhooks" not in find(found, HOOKS, "egress-gateway-pods")
    assert not {"data", "stringData"} & find(found, "Secret", WEBHOOK).keys()
    rules = [
        rule
        for kind in ("Role", "ClusterRole")
        for rule in find(found, kind, WEBHOOK)["rules"]
        if not set(rule["verbs"]) <= {"get", "list", "watch"} or rule["resources"] == ["secrets"]
    ]
    assert [(r["resources"], r["resourceNames"], r["verbs"]) for r in rules] == [
        (["secrets"], [WEBHOOK], ["get", "patch"]),
        (["mutatingwebhookconfigurations"], ["egress-gateway-pods"], ["get", "patch"]),
    ]
    deployment = find(found, "Deployment", WEBHOOK)
    assert deployment["spec"]["replicas"] == 3
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "EGRESS_GATEWAY_INTERVAL", "value": "5"} in container["env"]
    defaults = importlib.import_module("egress_gateway.webhook.settings").Settings()
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"webhook": defaults.port, "health": defaults.health_port, "metrics": 9084}
    assert (defaults.name, defaults.configuration) == (WEBHOOK, "egress-gateway-pods")


def test_keys_have_the_namespace_that_is_given_and_the_controller_no_other_secrets(
    render: Render,
) -> None:
    for values, expected in (((), "somewhere"), (("keys.namespace=keys",), "keys")):
        documents = render(*values)
        roles = [
            d
            for d in documents
            if d["kind"] in ("Role", "ClusterRole")
            and d["metadata"]["name"].startswith("egress-gateway-controller")
        ]
        reach = {
            d["metadata"].get("namespace")
            for d in roles
            for rule in d["rules"]
            if "secrets" in rule["resources"]
        }
        assert reach == {expected}
        for kind in ("Role", "RoleBinding"):
            assert find(documents, kind, "egress-gateway-keys")["metadata"]["namespace"] == expected
        for kind, name in (("Deployment", "controller"), ("DaemonSet", "gateway")):
            given = container(documents, kind, f"egress-gateway-{name}")["env"]
            told = [e["value"] for e in given if e["name"] == "EGRESS_GATEWAY_KEYS_NAMESPACE"]
            assert told == (["keys"] if values else [])


def test_policies_spell_the_contract(render: Render) -> None:
    found = render(apis=(f"v1/{MUTATING}", f"v1/{VALIDATING}"))
    text = json.dumps(find(found, MUTATING, "egress-gateway-pods"))
    assert names.POD_ANNOTATION in text
    assert names.NODE_READY_LABEL in text
    # Of kubelets, of people, and of the controller, which speaks for no node.
    others = tuple(f"egress-gateway-{name}" for name in ("mode", "hints", "configurations"))
    policies = [d for d in found if d["kind"] == VALIDATING]
    for policy in (d for d in policies if d["metadata"]["name"] not in others):
        assert "system:serviceaccount:somewhere:egress-gateway-" in json.dumps(policy)
        assert "authentication.kubernetes.io/node-name" in json.dumps(policy)


def test_hosts_of_tunnels_may_keep_their_image(render: Render) -> None:
    kept = "registry.example:5000/before:0.1.0"
    images = {
        d["metadata"]["name"]: c["image"]
        for d in render(f"wireguard.image={kept}", "image.repository=new", "image.tag=v2")
        if d["kind"] in ("DaemonSet", "Deployment")
        for c in d["spec"]["template"]["spec"]["containers"]
    }
    assert images.pop("egress-gateway-wireguard") == kept
    assert set(images.values()) == {"new:v2"}


def test_definitions_are_kept_unless_told(render: Render) -> None:
    policy = "helm.sh/resource-policy"
    kept = [d for d in render() if d["kind"] == "CustomResourceDefinition"]
    assert {d["metadata"]["annotations"][policy] for d in kept} == {"keep"}
    let_go = [d for d in render("crds.keep=false") if d["kind"] == "CustomResourceDefinition"]
    assert not any(policy in d["metadata"].get("annotations", {}) for d in let_go)


def test_only_agents_are_privileged_and_all_roots_are_sealed(render: Render) -> None:
    found = render(hooks=True)
    specs = {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]
        for d in found
        if d["kind"] in ("Deployment", "DaemonSet")
    }
    specs |= {d["metadata"]["name"]: d["spec"] for d in found if d["kind"] == "Pod"}
    assert len(specs) == 7
    for name, spec in specs.items():
        context = spec["containers"][0]["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert spec["priorityClassName"].startswith("system-")
        assert spec["containers"][0]["resources"]["requests"]
        if name in ("egress-gateway-controller", "egress-gateway-uninstall", TEST, WEBHOOK):
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
        else:
            assert context["privileged"] is True
            assert context["runAsUser"] == 0


def test_what_fails_leaves_the_end_of_its_log_in_its_pods_status(render: Render) -> None:
    """`kubectl describe` and `check` (EG301) show it."""
    found = render("echo.enabled=true", "admission.mode=webhook")
    workloads = [d for d in found if d["kind"] in ("Deployment", "DaemonSet")]
    # Nobody makes the pods of tunnels' hosts anew: theirs stay as earlier versions made them.
    kept = [d for d in workloads if d["spec"].get("updateStrategy") == {"type": "OnDelete"}]
    assert [d["metadata"]["name"] for d in kept] == ["egress-gateway-wireguard"]
    assert len(workloads) == 6
    for one in (d for d in workloads if d not in kept):
        for container in one["spec"]["template"]["spec"]["containers"]:
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", one["metadata"]


def test_helm_test_sends_packets_and_is_held_by_a_policy(render: Render) -> None:
    def found(*apis: str) -> list[Document]:
        return [d for d in render(apis=apis, hooks=True) if d["metadata"]["name"] == TEST]

    def verbs(documents: list[Document]) -> set[str]:
        (role,) = [d for d in documents if d["kind"] == "ClusterRole"]
        return {verb for rule in role["rules"] for verb in rule["verbs"]}

    def command(documents: list[Document]) -> str:
        (made,) = [d for d in documents if d["kind"] == "Pod"]
        text: str = made["spec"]["containers"][0]["command"][1]
        return text

    held = found(f"v1/{VALIDATING}")
    assert all(d["metadata"]["annotations"]["helm.sh/hook"] == "test" for d in held)
    assert command(held) == "test"
    assert verbs(held) == {"get", "list", "create", "delete"}
    assert {d["kind"] for d in held} > {VALIDATING, f"{VALIDATING}Binding"}
    # Nothing would say which pods it may make: then it makes none.
    assert command(found()) == "status"
    assert verbs(found()) == {"get", "list"}


def test_the_echo_is_asked_beside_the_public_servers(render: Render) -> None:
    def asked(*values: str) -> list[str] | None:
        env = container(render(*values), "DaemonSet", "egress-gateway-gateway")["env"]
        name = "EGRESS_GATEWAY_VERIFY_TARGETS"
        found = [e["value"] for e in env if e["name"] == name]
        assert len(found) < 2
        return found[0].split(",") if found else None

    assert asked() is None
    assert asked("echo.enabled=true") is None
    on = ("echo.enabled=true", "echo.host=echo.example.com")
    assert asked(*on) == ["echo.example.com:3478", *STUN_SERVERS]
    assert asked(*on, 'gateway.settings.verifyTargets=["a:1"]') == ["a:1"]
    found = render(*on, "echo.port=3500")
    assert container(found, "Deployment", "egress-gateway-echo")["command"][-1] == "3500"
    service = find(found, "Service", "egress-gateway-echo")["spec"]
    # Another policy would show the server a node's address in place of the gateway's.
    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert service["ports"][0]["protocol"] == "UDP"


def test_every_agent_follows_a_changed_network(render: Render) -> None:
    found = render('cluster.cidrs=["10.1.0.0/16", "fd00::/8"]')
    assert (
        find(found, "ConfigMap", "egress-gateway")["data"]["clusterCidrs"] == "10.1.0.0/16,fd00::/8"
    )
    for name in ("gateway", "node"):
        env = container(found, "DaemonSet", f"egress-gateway-{name}")["env"]
        assert any(
            e.get("valueFrom", {}).get("configMapKeyRef", {}).get("key") == "clusterCidrs"
            for e in env
        )


def test_alerts_and_dashboard_are_those_of_the_files(render: Render) -> None:
    base = "https://wiki.example.com/egress/"
    found = render(
        "prometheusRule.enabled=true", "dashboard.enabled=true", f"prometheusRule.runbooks={base}"
    )
    rule = find(found, "PrometheusRule", "egress-gateway")
    files = [yaml.safe_load((CHART / f"files/{n}.yaml").read_text()) for n in ("alerts", "slo")]
    written = [group for file in files for group in file["groups"]]
    rendered = rule["spec"]["groups"]
    for group, shown in zip(written, rendered, strict=True):
        for one, other in zip(group["rules"], shown["rules"], strict=True):
            if "record" in one:
                assert other == one
                continue
            link = other["annotations"].pop("runbook_url")
            assert link == f"{base}docs/reference/alerts.md#{one['alert'].lower()}"
            assert other == one
    stricter = render("prometheusRule.enabled=true", "prometheusRule.objective=99.99")
    (group,) = find(stricter, "PrometheusRule", "egress-gateway")["spec"]["groups"][1:]
    assert group["rules"][0]["expr"] == "vector((100 - 99.99) / 100)"
    dashboard = find(found, "ConfigMap", "egress-gateway-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    text = (CHART / "files/dashboard.json").read_text()
    assert json.loads(dashboard["data"]["egress-gateway.json"]) == json.loads(text)


def test_people_see_their_namespaces_objects_by_the_roles_they_have(render: Render) -> None:
    def roles(documents: list[Document]) -> dict[str, set[str]]:
        """By our ClusterRoles that are part of Kubernetes' own: which."""
        beginning = "rbac.authorization.k8s.io/aggregate-to-"
        return {
            d["metadata"]["name"]: {
                label.removeprefix(beginning)
                for label in d["metadata"].get("labels", {})
                if label.startswith(beginning)
            }
            for d in documents
            if d["kind"] == "ClusterRole"
        }

    found = roles(render())
    assert found["egress-gateway-view"] == {"view", "edit", "admin"}
    assert found["egress-gateway-edit"] == {"edit", "admin"}
    assert "egress-gateway-view" not in roles(render("rbac.aggregate=false"))
