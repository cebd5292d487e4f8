"""A cache's changes tell the whole story, whatever was missed in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api.types import ObjectMeta
from egress_gateway.kube.informer.store import Change, Store
from egress_gateway.kube.resources import PODS, Key, Pod, PodSpec


def pod(name: str, version: int = 1, uid: str = "u", node: str = "") -> Pod:
    meta = ObjectMeta(name=name, namespace="ns", uid=uid, resource_version=str(version))
    return Pod(metadata=meta, spec=PodSpec(node_name=node))


def key(name: str) -> Key:
    return Key("ns", name)


def test_a_list_without_a_known_object_reports_its_deletion() -> None:
    store = Store(PODS)
    a, b = pod("a"), pod("b")
    store.replace([a, b])
    assert store.replace([b]) == [Change(key("a"), a, None)]


def test_the_same_name_under_another_uid_is_another_object() -> None:
    store = Store(PODS)
    old, new = pod("a", uid="1"), pod("a", uid="2", version=2)
    store.put(old)
    assert store.put(new) == [Change(key("a"), old, None), Change(key("a"), None, new)]


def test_what_is_known_already_is_no_change() -> None:
    store = Store(PODS)
    store.put(pod("a", version=7))
    assert store.put(pod("a", version=7)) == []
    assert store.replace([pod("a", version=7)]) == []


def test_an_object_that_no_longer_decodes_keeps_its_last_good_state() -> None:
    store = Store(PODS)
    store.replace([pod("a")])
    assert store.replace([], keep={key("a")}) == []
    assert store.get(key("a")) is not None


def test_indexes_follow_changes_and_deletions() -> None:
    store = Store(PODS)
    store.put(pod("before", node="n1"))
    store.set_index("node", lambda p: [p.spec.node_name])
    store.put(pod("a", node="n1"))
    store.put(pod("a", version=2, node="n2"))
    assert [p.metadata.name for p in store.by_index("node", "n1")] == ["before"]
    assert [p.metadata.name for p in store.by_index("node", "n2")] == ["a"]
    store.remove(key("a"))
    assert store.by_index("node", "n2") == []


PODS_NOW = st.builds(
    pod,
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from(["u", "v"]),
    st.sampled_from(["n1", "n2"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PODS_NOW),
        st.tuples(st.just("remove"), st.sampled_from("abc")),
        st.tuples(st.just("replace"), st.lists(PODS_NOW, max_size=3)),
    ),
    max_size=15,
)


@given(STEPS)
def test_replaying_the_changes_gives_the_content(steps: list[tuple[str, object]]) -> None:
    store = Store(PODS)
    store.set_index("node", lambda p: [p.spec.node_name])
    replay: dict[Key, Pod] = {}
    for verb, argument in steps:
        match verb, argument:
            case "put", Pod() as obj:
                changes = store.put(obj)
            case "remove", str(name):
                changes = store.remove(key(name))
            case _, list(items):
                changes = store.replace(items)
        for change in changes:
            assert replay.get(change.key) == change.old
            if change.new is None:
                del replay[change.key]
            else:
                replay[change.key] = change.new
    assert replay == dict(store.items())
    for node in ("n1", "n2"):
        expected = [p for p in replay.values() if p.spec.node_name == node]
        assert sorted(p.metadata.name for p in store.by_index("node", node)) == sorted(
            p.metadata.name for p in expected
        )
