"""What a bundle takes out of texts, and what it leaves."""

from __future__ import annotations

import base64
import secrets
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.cli.bundle.pruned import pod
from egress_gateway.cli.bundle.redact import Redactor

PUBLIC = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2",
        "DB_PASSWORD: hunter2",
        '{"clientSecret":"hunter2"}',
        "Authorization: Basic hunter2hunter2",
        "authorization='Bearer hunter2hunter2'",
        "https://me:hunter2@example.com/x",
        "AccountKey=hunter2;EndpointSuffix=core.windows.net",
        "https://a.blob.core.windows.net/c?sv=2022&sig=hunter2%3D",
        "api-key hunter2hunter2 is api-key=hunter2",
        "-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2",
    ],
)
def test_what_stands_beside_its_name_goes(text: str) -> None:
    assert "hunter2" not in Redactor().text(text).replace("api-key hunter2hunter2", "")


@given(st.binary(min_size=24, max_size=64))
def test_random_keys_go_in_every_writing(raw: bytes) -> None:
    if len(set(raw)) < 16:
        return  # not random
    for form in (base64.b64encode(raw).decode(), raw.hex()):
        assert form not in Redactor().text(f"found {form} in it")


@given(st.text(string.ascii_letters + string.digits, min_size=8, max_size=40), st.text(max_size=9))
def test_what_is_known_goes_wherever_it_stands(secret: str, around: str) -> None:
    redactor = Redactor([secret])
    for form in (secret, secret.encode().hex()):
        assert form not in redactor.text(f"{around}{form}{around}")
    for offset in range(3):
        coded = base64.b64encode(b"-" * offset + secret.encode() + b"-" * 3).decode()
        inner = base64.b64encode(b"\0" * offset + secret.encode()).decode().rstrip("=")[4:-2]
        assert len(inner) < 6 or inner not in redactor.text(coded)


@pytest.mark.parametrize(
    "text",
    [
        "gateway aks-npegress-12345678-vmss000001 serves 203.0.113.4 (2001:db8::1)",
        "StaticGatewayConfiguration shop/partner is not ready: PublicIPPrefixNotFound",
        "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/MC_rg_aks_westeurope/"
        "providers/Microsoft.Network/publicIPPrefixes/pip-1",
        "egress-gateway-controller-5d4f8b7c9-x2x4z restarted at 2030-01-01T02:59:45Z",
        "ns-static-egress-gateway wg-6000 169.254.103.2/30 1500",
        "egress_gateway_controller_reconcile_duration_seconds_bucket",
        "az role assignment create --assignee 0b1f6471-1bf0-4dda-aec3-cb9272f09590",
    ],
)
def test_what_a_ticket_needs_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_public_keys_stay_and_private_ones_look_the_same() -> None:
    private = base64.b64encode(secrets.token_bytes(32)).decode()
    said = Redactor(public={PUBLIC}).text(f"peer: {PUBLIC} key: {private} public_key={PUBLIC}")
    assert said.count(PUBLIC) == 2
    assert private not in said


def test_a_tag_is_the_same_for_the_same_value_of_one_bundle_alone() -> None:
    one, two = Redactor(), Redactor()
    first = one.text("token=aaaaaa")
    assert first == one.text("token=aaaaaa") != one.text("token=bbbbbb")
    assert first != two.text("token=aaaaaa")


def test_of_a_foreign_pod_named_fields_go_in_and_nothing_else() -> None:
    said = {"terminated": {"exitCode": 1, "message": "x", "containerID": "y"}}
    found = pod(
        {
            "metadata": {"name": "p", "annotations": {"a/b": "x"}, "labels": {"team": "x"}},
            "spec": {
                "nodeName": "n0",
                "volumes": [{"name": "x"}],
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "x"}]}],
            },
            "status": {"containerStatuses": [{"name": "c", "lastState": said}]},
        }
    )
    assert found["spec"]["containers"] == [{"name": "c", "image": "i"}]
    assert found["status"]["containerStatuses"][0]["lastState"] == {"terminated": {"exitCode": 1}}
    assert found["metadata"] == {"name": "p"}
    assert "volumes" not in found["spec"]
