"""Faults of an installation are named before somebody needs what is missing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from egress_gateway.cli.diagnosis.checks.installation import Installation, judged
from tests.faults.installed import INSTALLED, NODES, WHOLE
from tests.faults.table import endpoint


@pytest.mark.parametrize(
    ("installed", "code", "where", "words"),
    [f[1:] for f in INSTALLED],
    ids=[f[0] for f in INSTALLED],
)
def test_what_is_missing_is_named(
    installed: Installation, code: str, where: str, words: str
) -> None:
    (found,) = judged(installed, NODES)
    assert found.code == code
    assert found.object.startswith(where)
    assert words in f"{found.evidence} {found.mend}"
    assert found.mend


@pytest.mark.parametrize(
    ("address", "missing"), [("192.168.7.2", None), ("192.168.8.2", "192.168.8.2/32")]
)
def test_where_the_cni_ignores_pod_cidrs_its_pods_say_where_they_are(
    address: str, missing: str | None
) -> None:
    whole = replace(WHOLE, cidrs=["192.168.7.0/24", "10.224.0.0/12", "10.0.0.0/16"])
    attached = endpoint("web-0", "g", "shop", "n0")
    pods = [replace(attached, spec=replace(attached.spec, pod_ips=[address]))]
    found = [one.evidence for one in judged(whole, NODES, pods)]
    assert [missing in text for text in found if missing] == [True] * bool(missing)
    assert bool(found) is bool(missing)


@pytest.mark.parametrize(
    "installed",
    [
        WHOLE,
        replace(WHOLE, cidrs=[*(WHOLE.cidrs or ()), "fc00::/7", "100.0.0.0/8"]),
        replace(WHOLE, admission="webhook", bound=None),
        replace(WHOLE, admission="none", bound=None),
        Installation(),
    ],
)
def test_a_whole_installation_has_no_finding_nor_has_what_may_not_be_read(
    installed: Installation,
) -> None:
    assert list(judged(installed, NODES)) == []
    assert list(judged(installed, None)) == []
