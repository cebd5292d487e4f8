"""AKS's LocalDNS on real nodes: kubelets give pods the node's own resolver."""

from __future__ import annotations

import pytest

from tests.lab.pods.test_local_dns import (
    test_pods_with_a_gateway_resolve_by_their_node_s_own_resolver as test_local_dns,
)

__all__ = ["test_local_dns"]

pytestmark = [pytest.mark.root, pytest.mark.kube]
