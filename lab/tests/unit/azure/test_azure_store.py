from __future__ import annotations

import asyncio

from egress_gateway_lab.azure.arm.store import Store

LB = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb"
NIC = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/nic"


def nic(*pools: str) -> dict[str, object]:
    configuration = {
        "id": f"{NIC}/ipConfigurations/one",
        "name": "one",
        "properties": {"loadBalancerBackendAddressPools": [{"id": p} for p in pools]},
    }
    return {"id": NIC, "name": "nic", "properties": {"ipConfigurations": [configuration]}}


def test_ids_are_found_in_any_case_and_kept_as_written() -> None:
    store = Store()
    store.put("Microsoft.Network/loadBalancers", {"id": LB, "properties": {}})
    assert LB.upper() in store
    found = store.get(LB.lower())
    assert found is not None
    assert found["id"] == LB


def test_referrers_follow_every_change() -> None:
    store = Store()
    kind = "Microsoft.Network/networkInterfaces"
    store.put(kind, nic(f"{LB}/backendAddressPools/a"))
    referrer = f"{NIC}/ipConfigurations/one"
    assert store.referrers(f"{LB}/BACKENDADDRESSPOOLS/a") == [referrer]
    store.put(kind, nic(f"{LB}/backendAddressPools/b"))
    assert store.referrers(f"{LB}/backendAddressPools/a") == []
    assert store.referrers(f"{LB}/backendAddressPools/b") == [referrer]
    store.delete(NIC)
    assert store.referrers(f"{LB}/backendAddressPools/b") == []


async def test_every_change_raises_the_revision_changes_the_etag_and_wakes_waiters() -> None:
    store = Store()
    first = store.put("T/t", {"id": LB, "properties": {}})
    seen = store.revision
    waiter = asyncio.create_task(store.changed(seen))
    await asyncio.sleep(0)
    assert not waiter.done()
    second = store.put("T/t", {"id": LB, "properties": {}})
    assert first.etag != second.etag
    assert await waiter > seen
    assert await store.changed(seen) == store.revision, "the past does not wait"
