"""Which namespace may use which prefix: open until somebody reserves, strict where it is asked."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.controller.planning.grants import Grants, unclear_entries

BASE = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/{}"
    "/providers/Microsoft.Network/publicIPPrefixes/{}"
)
PA, PB, PC = (BASE.format("rg", name) for name in ("pa", "pb", "pc"))


def test_open_without_a_grant_anybody_uses_any_prefix() -> None:
    assert Grants(annotations={}).problem("mallory", [PA, PB]) is None


def test_a_prefix_that_a_namespace_names_is_its_own() -> None:
    grants = Grants(annotations={"tenant-a": PA, "tenant-b": f"{PB}, {PC}"})
    assert grants.problem("tenant-a", [PA]) is None
    assert grants.problem("tenant-b", [PB, PC]) is None
    for thief, stolen in (("mallory", PA), ("tenant-b", PA), ("tenant-a", PC)):
        problem = grants.problem(thief, ["", stolen])
        assert problem is not None
        assert problem.reason == Reason.PREFIX_NOT_ALLOWED
        assert not problem.accepted
    assert grants.problem("mallory", [BASE.format("rg", "free")]) is None


@pytest.mark.parametrize(
    "spelled", ["{}/", '"{}"', "'{}'", "{};", "/{}", "{}//", ' "{}", ', "\u00a0{}"]
)
def test_a_slip_in_an_annotation_does_not_open_what_it_reserves(spelled: str) -> None:
    """Also without the slash that an id begins with."""
    for prefix in (PA, PA.removeprefix("/")):
        grants = Grants(annotations={"tenant-a": spelled.format(prefix)})
        assert grants.problem("tenant-a", [PA]) is None
        assert grants.problem("mallory", [PA]) is not None
        assert grants.problem("mallory", [PB]) is None


IDS = (PA, PB)
SLIPS = {
    "brackets": "[{0},{1}]",
    "braces": "{{{0} {1}}}",
    "JSON": '["{0}", "{1}"]',
    "pipe": "{0}|{1}",
    "plus": "{0}+{1}",
    "anchors": "^{0}$ ^{1}$",
    "angle brackets": "<{0}> <{1}>",
    "no-break and zero-width blanks": "{0}\u200b,\ufeff{1}",
    "ideographic comma": "{0}\u3001{1}",
    "escaped slashes": "%2F{0},%2f{1}",
    "a URL": "https://management.azure.com{0},https://management.azure.com{1}?api-version=1",
    "a slash twice": "/{0},{1}//",
    "a dot behind": "{0}.,{1}.",
    "a part of it": "{0}/x,{1}/extra",
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_an_entry_of_any_form_keeps_what_it_names_from_others(slip: str) -> None:
    grants = Grants(annotations={"tenant-a": slip.format(*IDS)})
    for prefix in IDS:
        assert grants.problem("mallory", [prefix]) is not None
    assert grants.problem("mallory", [PC]) is None


@pytest.mark.parametrize(
    "written",
    [
        "pip-1",
        "*/pip-1",
        BASE.format("rg", "pip-[1-4]"),
        BASE.format("rg", "pip-{1,2}"),
        BASE.format("rg", "pip-?"),
        BASE.format("rg", "pip\u20111"),
        BASE.format("rg", "pip-\uff11"),
        BASE.format("rg", "pip-\u0661"),
        BASE.format("rg", "p\u00adip-1"),
        BASE.format("rg", "pip-1").replace("publicIPPrefixes", "publicIPPrefix"),
        BASE.format("rg", "pip-1").replace("/subscriptions/", "/subscription/"),
        BASE.format("rg", "pip-1").partition("/providers")[2],
    ],
)
def test_an_entry_that_is_nearly_an_id_keeps_it_from_others(written: str) -> None:
    wanted = BASE.format("rg", "pip-1")
    assert Grants(annotations={"tenant-a": written}).problem("mallory", [wanted]) is not None
    assert Grants(annotations={"tenant-a": written}).problem("mallory", [PA]) is None


@pytest.mark.parametrize(
    "text", ["[*]", "**", "*/*", "pa", "[{0}]x", "{0}/..", "../{0}", "p?", "{0}\u0430"]
)
def test_an_entry_that_is_no_id_grants_nothing(text: str) -> None:
    grants = Grants(annotations={"a": text.format(PA)}, strict=True)
    assert not grants.allows("a", PA)
    assert "no ids" in unclear_entries(text.format(PA))
    assert not unclear_entries(f"{PA} *")


@pytest.mark.parametrize("text", ["*/", "/*", "/", "//", "pa", "/pa/", "'/*/'"])
def test_no_slip_becomes_a_grant_of_everything(text: str) -> None:
    assert Grants(annotations={"mallory": text}, strict=True).problem("mallory", [PA]) is not None


def test_strict_needs_a_grant_and_managed_prefixes_do_not() -> None:
    grants = Grants(annotations={"tenant-a": PA}, strict=True)
    assert grants.problem("tenant-a", [PA]) is None
    assert grants.problem("tenant-a", [PB]) is not None
    assert grants.problem("mallory", [PB]) is not None
    assert grants.problem("mallory", ["", ""]) is None


def test_what_was_made_for_another_namespace_is_that_namespace_s() -> None:
    made = {PA: "tenant-a"}.get
    grants = Grants(annotations={"friend": PA})

    def refused(namespace: str) -> bool:
        return grants.problem(namespace, [PA], lambda p: made(p, "")) is not None

    assert not Grants(annotations={}).problem("tenant-a", [PA], lambda p: made(p, ""))
    assert Grants(annotations={}).problem("mallory", [PA], lambda p: made(p, ""))
    assert not refused("friend")
    assert refused("mallory")


def test_the_ipv6_prefix_is_asked_too() -> None:
    assert Grants(annotations={"b": PB}).problem("a", [PA, PB]) is not None


@pytest.mark.parametrize("spelling", [str.upper, str.lower, str.swapcase])
def test_case_tells_no_prefixes_apart(spelling: object) -> None:
    assert callable(spelling)
    grants = Grants(annotations={"tenant-a": spelling(PA)})
    assert grants.problem("tenant-a", [PA]) is None
    assert grants.problem("mallory", [PA]) is not None


def test_a_star_stands_for_names_and_not_for_groups() -> None:
    grants = Grants(annotations={"a": BASE.format("rg", "team-*")}, strict=True)
    assert grants.allows("a", BASE.format("rg", "team-1"))
    assert not grants.allows("a", BASE.format("rg", "other"))
    assert not grants.allows("a", BASE.format("other", "team-1"))
    assert not grants.allows("a", BASE.format("rg", "team-1/x"))


def test_a_lone_star_grants_everything_and_reserves_nothing() -> None:
    open_ = Grants(annotations={"platform": "*"})
    assert open_.allows("platform", PA)
    assert open_.allows("mallory", PA)
    strict = Grants(annotations={"platform": "*"}, strict=True)
    assert strict.allows("platform", PA)
    assert not strict.allows("mallory", PA)


@pytest.mark.parametrize("text", ["", " ", ",", "\n", ",,", "nonsense", "[", "(?i).", "pa"])
def test_what_names_no_prefix_grants_none(text: str) -> None:
    assert not Grants(annotations={"a": text}, strict=True).allows("a", PA)


@given(st.text(max_size=40))
def test_any_text_is_borne(text: str) -> None:
    Grants(annotations={"a": text}).problem("b", [PA])


def test_the_message_has_the_command_that_grants() -> None:
    grants = Grants(annotations={"b": PA, "a": PB})
    problem = grants.problem("b", [PB])
    assert problem is not None
    command = problem.message.partition("kubectl ")[2]
    *_, assignment = shlex.split(command)
    key, _, value = assignment.partition("=")
    granted = Grants(annotations={"b": value, "a": PB})
    assert key.endswith("/allowed-prefixes")
    assert granted.allows("b", PA)
    assert granted.allows("b", PB)
    assert "namespace a" not in problem.message, "who has it is no business of b's"


def configuration(name: str, *, age: int = 0, namespace: str = "a", **spec: object) -> Any:
    meta = {
        "name": name,
        "namespace": namespace,
        "uid": f"{namespace}-{name}",
        "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
    }
    given = {"gatewayNodepoolName": "np", "publicIpPrefixId": PA} | spec
    return msgspec.convert({"metadata": meta, "spec": given}, StaticGatewayConfiguration)


def test_a_namespace_uses_its_share_of_a_prefix_and_who_was_first_stays() -> None:
    live = [configuration(f"c{age}", age=age) for age in (3, 1, 2)]
    live.append(configuration("theirs", age=9, namespace="b"))
    found = Grants(annotations={}, share=2).beyond_share(live)
    assert found.keys() == {"a-c3"}
    assert found["a-c3"].reason == Reason.PREFIX_SHARE_USED
    assert "c1, c2" in found["a-c3"].message
    assert "prefixShare" in found["a-c3"].message
    assert Grants(annotations={}).beyond_share(live) == {}, "off by default"


@pytest.mark.parametrize(
    "others",
    [
        [configuration("upper", age=1, publicIpPrefixId=PA.upper())],
        [configuration("six", age=1, publicIpPrefixId=PB, publicIpPrefixIdV6=PA)],
        [configuration("pool", age=1, gatewayNodepoolName="another")],
    ],
    ids=["another spelling", "as the prefix of IPv6", "by another pool"],
)
def test_the_share_is_of_the_prefix_however_it_is_used(others: list[Any]) -> None:
    found = Grants(annotations={}, share=1).beyond_share([configuration("first"), *others])
    assert found.keys() == {other.metadata.uid for other in others}


def test_what_takes_no_address_counts_for_nothing() -> None:
    leaving = configuration("leaving")
    meta = msgspec.structs.replace(leaving.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    live = [
        msgspec.structs.replace(leaving, metadata=meta),
        configuration("private", age=1, publicIpPrefixId="", provisionPublicIps=False),
        configuration("managed", age=2, publicIpPrefixId=""),
        configuration("managed-too", age=3, publicIpPrefixId=""),
        configuration("uses", age=4),
    ]
    assert Grants(annotations={}, share=1).beyond_share(live) == {}


def test_a_prefix_of_one_namespace_alone_is_shared_with_nobody() -> None:
    live = [configuration("c1", age=1), configuration("c2", age=2)]
    assert Grants(annotations={"a": PA}, share=1).beyond_share(live) == {}
    shared = Grants(annotations={"a": PA, "b": PA}, share=1)
    assert shared.beyond_share(live).keys() == {"a-c2"}
