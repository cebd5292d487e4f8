"""Pods that the API only shows: something else on the machine runs them."""

from __future__ import annotations

import pytest

from lab.tests.runtime.test_pods import World, w

__all__ = ["w"]

pytestmark = pytest.mark.root


async def test_a_mirror_pod_is_left_alone(w: World) -> None:
    """A later pod runs, so the kubelet has seen the mirror pod and passed it over."""
    mirror = {"annotations": {"kubernetes.io/config.mirror": "somebody"}}
    await w.create("mirror", metadata=mirror)
    await w.create("own", {"command": ["sleep", "60"]})
    await w.ready("own")
    assert "status" not in w.api.objects["/api/v1/namespaces/default/pods/mirror"]
    with pytest.raises(LookupError):
        await w.exec("mirror", ["true"])
    await w.delete("own")
