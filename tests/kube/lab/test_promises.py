"""The promises once more, word for word the same tests, on real kubelets and containerd."""

from __future__ import annotations

import pytest

from tests.lab.pods.test_admission import test_a_namespaces_annotation_is_its_pods_way_out
from tests.lab.test_promises import (
    test_a_plain_pod_starts_and_works_with_all_of_ours_stopped,
    test_agents_may_die_at_any_time,
    test_no_gateway_means_no_egress,
    test_packets_follow_azure_and_the_controller_mends_it,
    test_running_pods_follow,
    test_started_means_working,
)

__all__ = [
    "test_a_namespaces_annotation_is_its_pods_way_out",
    "test_a_plain_pod_starts_and_works_with_all_of_ours_stopped",
    "test_agents_may_die_at_any_time",
    "test_no_gateway_means_no_egress",
    "test_packets_follow_azure_and_the_controller_mends_it",
    "test_running_pods_follow",
    "test_started_means_working",
]

pytestmark = [pytest.mark.root, pytest.mark.kube]
