"""What of Azure is in the way of an installation, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from egress_gateway.cli.diagnosis.checks import azure_look
from egress_gateway.cli.diagnosis.checks.azure import (
    IN_GROUP,
    AzureBefore,
    FoundPrefix,
    Permission,
    Usage,
    before_azure,
    missing,
    usable,
)
from tests.faults.before import ACCOUNT, ACCOUNTS, CONTRIBUTOR, ID, document


def codes(facts: AzureBefore) -> list[str]:
    return [f.code for f in before_azure(facts)]


def test_an_account_in_order_has_no_finding() -> None:
    assert codes(ACCOUNT) == []
    six = document(prefixLength=126, publicIPAddressVersion="IPv6")
    assert codes(replace(ACCOUNT, prefixes=[FoundPrefix(id=ID.upper(), document=six)])) == []


@pytest.mark.parametrize(("facts", "code", "words"), [a[1:] for a in ACCOUNTS])
def test_each_thing_in_the_way_is_named(facts: AzureBefore, code: str, words: str) -> None:
    (one,) = before_azure(facts)
    assert one.code == code
    assert words in f"{one.evidence} {one.mend}"


def test_quotas_of_other_things_are_none_of_ours() -> None:
    usages = [Usage(name="VirtualNetworks", used=50, limit=50)]
    assert codes(replace(ACCOUNT, usages=usages)) == []


def test_rights_are_read_as_azure_reads_them() -> None:
    assert missing(IN_GROUP, [CONTRIBUTOR]) == []
    assert missing(["a/b/write"], [Permission(["A/*"], ["a/B/write"])]) == ["a/b/write"]
    # What one assignment leaves out another may grant.
    assert missing(["a/b/write"], [Permission(["a/*"], ["a/b/*"]), Permission(["a/b/*"])]) == []
    assert usable([256]) == 251
    assert usable([4, 16]) == 11


@pytest.mark.parametrize(
    ("identity", "own"),
    [
        ({"useManagedIdentityExtension": True}, True),
        ({"useManagedIdentityExtension": True, "userAssignedIdentityID": "x"}, True),
        ({"useFederatedWorkloadIdentityExtension": True, "aadClientId": "c"}, True),
        ({"aadClientId": "c", "aadClientSecret": "s"}, False),
    ],
)
async def test_an_identity_of_a_machine_or_a_pod_is_never_looked_for(
    identity: dict[str, object], own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would ask 169.254.169.254, which is not ours to ask."""
    made: list[str] = []

    class Stop(Exception):
        pass

    def credential(which: str) -> Callable[[object], object]:
        def make(_: object) -> object:
            made.append(which)
            raise Stop

        return make

    monkeypatch.setattr(azure_look, "_own", credential("own"))
    monkeypatch.setattr(azure_look, "credential", credential("the file's"))
    file = tmp_path / "azure.json"
    known = {"subscriptionID": "s", "resourceGroup": "g", "location": "l", "tenantId": "t"}
    file.write_text(json.dumps(known | identity))
    with pytest.raises(Stop):
        await azure_look.look(file, [], as_me=False)
    with pytest.raises(Stop):
        await azure_look.look(file, [], as_me=True)
    assert made == ["own" if own else "the file's", "own"]
