"""helm and kubectl of the chart's tests."""

from tests.deploy.conftest import clients

__all__ = ["clients"]
