"""The node agent is ready when it has heard of configurations and of its pods."""

from __future__ import annotations

from egress_gateway.node.main import unheard


def test_an_agent_that_misses_a_list_says_which() -> None:
    """Without its pods it follows nobody's annotation."""
    assert unheard({"configurations": True, "pods": True}) is None
    why = unheard({"configurations": True, "pods": False})
    assert why == "no list of pods from the Kubernetes API yet"
    why = unheard({"configurations": False, "pods": False})
    assert why == "no list of configurations and pods from the Kubernetes API yet"
