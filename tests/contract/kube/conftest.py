"""Both servers for every test: the embedded one, and a real one under the mark ``kube``."""

from __future__ import annotations

import pytest

from egress_gateway_lab.realcluster.control_plane import ControlPlane


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kube)])
def plane(request: pytest.FixtureRequest) -> ControlPlane | None:
    """None: the embedded server."""
    if request.param == "embedded":
        return None
    found: ControlPlane = request.getfixturevalue("real_plane")
    return found
