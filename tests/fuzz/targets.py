"""Every parser of foreign bytes: what it is fed with, and the errors that it may answer with.

Any other exception is a fault: whoever calls the parser does not expect it, so that a pass, a
request or a start ends with a traceback in place of a line that says what is wrong.
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from azure.core.exceptions import HttpResponseError

from egress_gateway.api import keys, keysecret, names, validation
from egress_gateway.cli.bundle.collect import split_inspection
from egress_gateway.cloud import errors as cloud_errors
from egress_gateway.cloud.azure import balancer, documents, forms
from egress_gateway.cloud.azure.account import config as azure_config
from egress_gateway.cloud.azure.requests.errors import translated
from egress_gateway.cni import conflist, protocol
from egress_gateway.datapath.addresses import parse_network
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway import reach
from egress_gateway.datapath.linux import connections, echo, link, netlink, sockets
from egress_gateway.datapath.wireguard import kernel, uapi
from egress_gateway.kube import config as kube_config
from egress_gateway.kube import errors as kube_errors
from egress_gateway.kube import wire
from egress_gateway.kube.resources import NODES, PODS
from egress_gateway.node.attachment import earlier
from egress_gateway.node.cni import libcni
from egress_gateway.node.settings import Settings
from egress_gateway.service import settings
from egress_gateway.webhook import certificates, review, server
from tests.fuzz.mutate import Mutator


@dataclass(frozen=True, slots=True)
class Target:
    parse: Callable[[bytes], object]
    answers: tuple[type[BaseException], ...]
    """Errors that callers expect."""
    seeds: list[bytes]
    slow: bool = False
    """YAML: it gets a tenth of the inputs."""


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _file(load: Callable[[Path], object]) -> Callable[[bytes], object]:
    folder = tempfile.mkdtemp(prefix="fuzz-")
    path = Path(folder, "content")

    def parse(content: bytes) -> object:
        path.write_bytes(content)
        return load(path)

    return parse


def _j(document: object) -> bytes:
    return json.dumps(document).encode()


# --- WireGuard's answers ---------------------------------------------------------------------

_KEY = "ab" * 32
_UAPI = f"""\
private_key={_KEY}
listen_port=6000
fwmark=7
public_key={"cd" * 32}
endpoint=10.1.0.4:20000
allowed_ip=10.244.1.2/32
allowed_ip=2001:db8::2/128
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
rx_bytes=1
tx_bytes=2
persistent_keepalive_interval=25
public_key={"ef" * 32}
endpoint=[fe80::1%eth0]:1
errno=0

"""
_A = netlink.attribute
_PEER = netlink.nested(
    0,
    _A(1, bytes(32)),
    _A(4, struct.pack("=HH4s8x", 2, 5, bytes(4))),
    _A(6, struct.pack("=qq", 1, 2)),
    netlink.nested(9, netlink.nested(0, _A(1, b"\2\0"), _A(2, bytes(4)), _A(3, b"\x20"))),
)
_DEVICE = _A(4, bytes(32)) + _A(6, b"\x70\x17") + netlink.nested(8, _PEER, _PEER)


def _devices(content: bytes) -> object:
    half = len(content) // 2
    return kernel.decode([content]), kernel.decode([content[:half], content[half:]])


# --- netlink ---------------------------------------------------------------------------------

_LINK = struct.pack("=BxHiII", 0, 1, 3, 1, 0) + netlink.text(3, "eth0") + netlink.u32(4, 1500)
_LINK += netlink.nested(18, netlink.text(1, "veth"), netlink.text(4, "bridge")) + netlink.u32(5, 7)
_ROUTE = (
    struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0) + _A(1, bytes(4)) + netlink.u32(4, 3)
)
_RULE = (
    struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + netlink.u32(6, 5) + netlink.u32(15, 9)
)


def _route_netlink(content: bytes) -> object:
    message = netlink.Message(16, 0, content)
    found = []
    for decode in (
        link.decode_link,
        lambda m: link.decode_route(m, {3: "eth0"}),
        lambda m: link.decode_rule(m, 4),
    ):
        with contextlib.suppress(DatapathError):
            found.append(decode(message))
    return found


def _end(address: bytes, port: bytes) -> bytes:
    parts = _A(1, address) + _A(2, address)
    return netlink.nested(1, parts) + netlink.nested(2, _A(1, b"\x11"), _A(2, port), _A(3, port))


_CONNECTION = struct.pack("=BBH", 2, 0, 0) + netlink.nested(1, _end(bytes(4), b"\0\7"))
_CONNECTION += netlink.nested(2, _end(bytes(4), b"\0\7")) + _A(18, b"\0\1")


def _connections(content: bytes) -> object:
    return [connections.decode(netlink.Message(kind, 0, content)) for kind in (256, 258)]


_SOCKET = (
    struct.pack("=BBBB", 2, 1, 0, 0) + struct.pack("!HH", 80, 81) + bytes(64) + _A(2, bytes(216))
)
_PROC = b"""\
  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0:0
"""


def _diag(content: bytes) -> object:
    return [sockets.decode(content, protocol) for protocol in (sockets.TCP, sockets.UDP)]


# --- CNI -------------------------------------------------------------------------------------

_RESULT: Final = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
    "ips": [{"address": "10.244.1.2/24", "interface": 0}],
}
_CALL = _j(
    {
        "command": "ADD",
        "containerID": "c1",
        "netns": "/run/netns/a",
        "ifName": "eth0",
        "args": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_UID=u",
        "config": {
            "cniVersion": "1.0.0",
            "name": "k8s",
            "runtimeConfig": {names.CNI_CAPABILITY: {names.POD_ANNOTATION: "one"}},
            "prevResult": _RESULT,
            "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
        },
    }
)


def _call(content: bytes) -> object:
    call = protocol.decode(content)
    return call.pod, call.configuration, call.addresses, call.id


_CHAIN = _j(
    {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0"],
        "name": "k8s",
        "plugins": [{"type": "bridge", "ipam": {}}, {"type": names.CNI_PLUGIN}],
    }
)


def _conflist(content: bytes) -> object:
    plugin = conflist.entry(run_dir="/run/x", agent_timeout=1)
    for parse in (
        lambda: conflist.with_plugin(content, plugin),
        lambda: conflist.without_plugin(content),
        lambda: conflist.has_plugin(content),
    ):
        with contextlib.suppress(conflist.ConflistError):
            parse()
    return None


_CACHED = _j(
    {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "ifName": "eth0",
        "networkName": "k8s",
        "cniArgs": [["K8S_POD_NAME", "p"]],
        "result": _RESULT,
    }
)
_EARLIER = _j(
    {
        "id": "a-eth0",
        "container_id": "a",
        "if_name": "eth0",
        "netns": "/n",
        "namespace": "d",
        "pod": "p",
        "uid": "u",
        "addresses": ["10.0.0.1"],
        "private_key": "k",
        "public_key": "k",
        "gateway": "gw",
        "address": "10.1.1.4",
        "configuration": {
            "name": "one",
            "uid": "u",
            "server_key": "k",
            "port": 6000,
            "balancer": "",
            "gateways": [{"name": "gw", "address": "10.1.1.4"}],
            "default_route": True,
            "exclude_cidrs": [],
        },
    }
)

# --- Kubernetes ------------------------------------------------------------------------------

_REVIEW = _j(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "namespace": "default",
            "object": {
                "metadata": {"annotations": {names.POD_ANNOTATION: "one"}, "namespace": "d"},
                "spec": {"hostNetwork": False, "nodeSelector": {"a": "b"}},
            },
        },
    }
)


def _review(content: bytes) -> object:
    document = server.parse(content)
    asked = review.asks_default(document)
    return asked, review.review(document, default="x")


_POD: Final = {
    "metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "7"},
    "spec": {"nodeName": "n", "hostNetwork": False},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}]},
}
_LIST = _j({"metadata": {"resourceVersion": "7", "continue": "x"}, "items": [_POD, _POD]})
_EVENT = _j({"type": "MODIFIED", "object": _POD})
_BOOKMARK = _j({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}})
_STATUS: Final = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
_ENDED: Final = {"details": {"causes": [{"reason": "ExitCode", "message": "1" * 5000}]}}
_GONE = _j({"type": "ERROR", "object": _STATUS})
_KUBECONFIG = b"""\
apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: me, namespace: d}}]
clusters: [{name: lab, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: t}}]
"""
_KUBECONFIG_KEYS = _KUBECONFIG.replace(
    b"token: t", b'client-certificate-data: "YQ==", client-key-data: "YQ=="'
)
_KUBECONFIG_JSON = _j(
    {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [
            {"name": "a", "cluster": {"server": "https://h", "certificate-authority-data": "YQ=="}}
        ],
        "users": [{"name": "a", "user": {"tokenFile": "nowhere", "exec": {}}}],
    }
)

# --- Azure -----------------------------------------------------------------------------------

_GROUP = "/subscriptions/s/resourceGroups/rg/providers/"
_SUBNET = f"{_GROUP}Microsoft.Network/virtualNetworks/v/subnets/s"
_CONFIG: Final = {
    "name": "c",
    "properties": {
        "primary": True,
        "privateIPAddress": "10.1.1.4",
        "privateIPAddressVersion": "IPv4",
        "subnet": {"id": _SUBNET},
        "publicIPAddressConfiguration": {"properties": {"publicIPPrefix": {"id": "/p"}}},
        "loadBalancerBackendAddressPools": [{"id": "/b"}],
    },
}
_NIC: Final = {"name": "nic", "properties": {"primary": True, "ipConfigurations": [_CONFIG]}}
_SET = _j(
    {
        "id": f"{_GROUP}Microsoft.Compute/virtualMachineScaleSets/vmss",
        "name": "vmss",
        "location": "westeurope",
        "zones": ["1"],
        "tags": {names.POOL_NAME_TAG: "np", names.POOL_PREFIX_SIZE_TAG: "31"},
        "properties": {
            "uniqueId": "u",
            "provisioningState": "Succeeded",
            "upgradePolicy": {"mode": "Manual"},
            "orchestrationMode": "Uniform",
            "virtualMachineProfile": {"networkProfile": {"networkInterfaceConfigurations": [_NIC]}},
            "networkProfileConfiguration": {"networkInterfaceConfigurations": [_NIC]},
            "ipPrefix": "203.0.113.0/31",
            "prefixLength": 31,
            "publicIPAddresses": [{"id": "/x"}],
            "loadBalancingRules": [
                {"name": "r", "properties": {"frontendPort": 1, "probe": {"id": "/p"}}}
            ],
            "probes": [{"name": "p", "properties": {"port": 1}}],
            "frontendIPConfigurations": [_CONFIG],
            "backendAddressPools": [{"name": "b"}],
        },
    }
)


def _arm(content: bytes) -> object:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None  # the SDK's business
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        return None  # as ``identified`` has it
    found: list[object] = []
    for read in _ARM:
        with contextlib.suppress(cloud_errors.CloudError):
            found.append(read(document))
    return found


_ARM: Final[tuple[Callable[[dict[str, Any]], object], ...]] = (
    documents.read_pool,
    balancer.read_balancer,
    documents.read_prefix,
    lambda d: documents.read_instance(d, forms.read(d, forms.NIC), {}, "/b"),
    documents.known_pool,
    documents.managed_prefix,
)


def _arm_error(content: bytes) -> object:
    text = _text(content)
    answer = SimpleNamespace(
        status_code=403,
        reason="Forbidden",
        headers={"Retry-After": text[:20]},
        text=lambda encoding=None: text,
        body=lambda: content,
        context=None,
    )
    error = HttpResponseError(response=answer)
    return translated(error, operation="writing", resource="/subscriptions/s")


_ARM_ERROR = _j(
    {
        "error": {
            "code": "LinkedAuthorizationFailed",
            "message": "The client 'x' with object id 'y' has permission to perform action "
            "'Microsoft.Network/a/write' on scope '/subscriptions/s'; however, it does not have "
            "permission to perform action 'join/action' on the linked scope(s) '/subscriptions/t'",
            "details": [{"code": "Inner", "message": "m"}],
        }
    }
)
_AZURE = b"""\
cloud: AzurePublicCloud
subscriptionId: s
resourceGroup: rg
location: westeurope
tenantId: t
aadClientId: c
useManagedIdentityExtension: true
"""


def _words(content: bytes) -> object:
    text = _text(content)
    found: list[object] = [protocol.parse_args(text), validation.parse_prefix_id(text)]
    for parse in (keys.decode, parse_network, uapi.parse_endpoint, reach.ProbeTarget.parse):
        with contextlib.suppress(ValueError):
            found.append(parse(text))
    found.append(keysecret.public_key({names.SECRET_PRIVATE_KEY: text}))
    return found


def _packets(content: bytes) -> object:
    return reach.parse(content), echo.echo_reply(content, 7)


_MADE: Final = certificates.make(["a.example"], now=1_700_000_000.0, validity=3600)


def _secret(content: bytes) -> object:
    """In the place of each of the three."""
    whole = (_MADE.certificate, _MADE.key, _MADE.authority)
    found = []
    for at in range(3):
        parts = [content if i == at else part for i, part in enumerate(whole)]
        data = {
            f"1.{name}": base64.b64encode(part).decode()
            for name, part in zip(("crt", "key", "ca"), parts, strict=True)
        }
        found.append(certificates.decode(data | {"2.crt": _text(content)}))
    return found


_DATAPATH = (DatapathError,)
TARGETS: Final[Mapping[str, Target]] = {
    "UAPI": Target(lambda c: uapi.decode(_text(c)), _DATAPATH, [_UAPI.encode()]),
    "UAPI, errno": Target(lambda c: uapi.decode_errno(_text(c)), _DATAPATH, [b"errno=-98\n\n"]),
    "kernel WireGuard": Target(_devices, _DATAPATH, [_DEVICE, _DEVICE * 2]),
    "rtnetlink": Target(_route_netlink, (), [_LINK, _ROUTE, _RULE]),
    "conntrack": Target(_connections, _DATAPATH, [_CONNECTION]),
    "sock_diag": Target(_diag, _DATAPATH, [_SOCKET]),
    "/proc/net": Target(lambda c: list(sockets.parse(_text(c))), _DATAPATH, [_PROC]),
    "packets": Target(_packets, (), [b"\x45" + bytes(8) + b"\x06" + bytes(60), bytes(28)]),
    "CNI call": Target(_call, (protocol.ProtocolError,), [_CALL]),
    "CNI conflist": Target(_conflist, (), [_CHAIN]),
    "CNI cache": Target(libcni.parse, (msgspec.MsgspecError, UnicodeDecodeError), [_CACHED]),
    "attachment": Target(earlier.decode, (msgspec.MsgspecError, UnicodeDecodeError), [_EARLIER]),
    "admission review": Target(_review, (review.ReviewError,), [_REVIEW]),
    "webhook's Secret": Target(_secret, (), [_MADE.certificate, _MADE.key]),
    "list": Target(lambda c: wire.decode_list(PODS, c), (msgspec.DecodeError,), [_LIST]),
    "watch": Target(
        lambda c: wire.decode_event(NODES, c),
        (msgspec.DecodeError, kube_errors.ApiError),
        [_EVENT, _BOOKMARK, _GONE],
    ),
    "API error": Target(
        lambda c: kube_errors.from_response(409, c, context="x", retry_after=_text(c)[:9]),
        (),
        [_j(_STATUS), b"<html>"],
    ),
    "a command's end": Target(wire.exit_code, (kube_errors.Unavailable,), [_j(_ENDED)]),
    "an inspection": Target(
        lambda c: split_inspection("a", c), (), [_j({"metrics": "x", "node": {}}), b"[1]"]
    ),
    "kubeconfig": Target(
        _file(kube_config.from_kubeconfig),
        (kube_config.ClusterAccessError,),
        [_KUBECONFIG, _KUBECONFIG_KEYS, _KUBECONFIG_JSON],
        slow=True,
    ),
    "ARM documents": Target(_arm, (), [_SET]),
    "ARM errors": Target(_arm_error, (), [_ARM_ERROR]),
    "azure.json": Target(
        _file(azure_config.load), (cloud_errors.CloudConfigError,), [_AZURE], slow=True
    ),
    "settings file": Target(
        _file(lambda p: settings.load(Settings, file=p, environment={}, flags={"node_name": "n"})),
        (settings.SettingsError,),
        [b"runDir: /run/x\nclusterCidrs: [10.0.0.0/8]\nspareTunnels: 3\n"],
        slow=True,
    ),
    "words": Target(_words, (), [b"10.0.0.1/24", b"[::1]:53", b"a=b;c=d", b"A" * 44]),
}


def surprises(name: str, inputs: int, *, seed: int) -> Iterator[tuple[Exception, bytes]]:
    """What that parser raises for mutated inputs and its callers do not expect, each with its
    input. A slow parser has a tenth of ``inputs``."""
    target = TARGETS[name]
    mutator = Mutator(target.seeds, seed)
    for _ in range(inputs // 10 if target.slow else inputs):
        content = mutator.next()
        try:
            target.parse(content)
        except target.answers:
            continue
        except Exception as error:
            yield error, content
