"""Server-side apply as a pure function: who owns what, and what goes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway_lab.apiserver.writes import apply as ssa
from egress_gateway_lab.apiserver.writes.lists import list_keys


def keys(path: tuple[str, ...]) -> tuple[str, ...] | None:
    return list_keys("Pod", path)


def apply(live: Any, spec: Any, manager: str, *, force: bool = True) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    return ssa.apply(live, body, keys, manager=manager, subresource="", force=force)


_NAMES = st.sampled_from(["a", "b", "c"])
_VALUES = st.integers(0, 2)
_CONTAINERS = st.dictionaries(_NAMES, st.dictionaries(_NAMES, _VALUES, max_size=2), max_size=3)
_SPECS = st.builds(
    lambda plain, containers: {
        **plain,
        **({"containers": [{"name": n, **c} for n, c in containers.items()]} if containers else {}),
    },
    st.dictionaries(_NAMES, _VALUES, max_size=3),
    _CONTAINERS,
)


def contains(obj: Any, applied: Any) -> bool:
    """Whether everything applied is in the object."""
    if isinstance(applied, dict):
        return all(k in obj and contains(obj[k], v) for k, v in applied.items())
    if isinstance(applied, list):
        named = {e["name"]: e for e in obj}
        return all(e["name"] in named and contains(named[e["name"]], e) for e in applied)
    return bool(obj == applied)


@given(_SPECS, _SPECS, _SPECS)
def test_what_is_applied_is_there_and_the_other_keeps_its_own(
    first: Any, other: Any, second: Any
) -> None:
    live = apply(None, first, "one")
    live = apply(live, other, "two")
    live = apply(live, second, "one")
    assert contains(live.get("spec", {}), second)
    # Whatever the other manager still owns is there (an empty map may have been filled).
    present = ssa.leaves(live, keys)
    for path in ssa.Managers(live).owned("two", "Apply", ""):
        assert any(there[: len(path)] == path for there in present)


@given(_SPECS, _SPECS)
def test_an_applier_that_is_alone_gets_exactly_its_last_word(first: Any, second: Any) -> None:
    live = apply(apply(None, first, "one"), second, "one")
    wanted = apply(None, second, "one")
    assert ssa.leaves(live, keys) == ssa.leaves(wanted, keys)


@given(_SPECS)
def test_applying_again_changes_nothing(spec: Any) -> None:
    once = apply(None, spec, "one")
    assert apply(once, spec, "one", force=False) == once


@given(_SPECS, _SPECS)
def test_field_sets_survive_their_notation(first: Any, second: Any) -> None:
    live = apply(apply(None, first, "one"), second, "two")
    paths = set(ssa.leaves(live, keys))
    assert ssa.from_fields(ssa.to_fields(paths)) == paths
