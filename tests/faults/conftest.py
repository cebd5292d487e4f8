"""What an API server says to whoever writes a fault is tried on both servers."""

from lab.tests.apiserver.conftest import certificates, cluster, pytest_generate_tests, serving

__all__ = ["certificates", "cluster", "pytest_generate_tests", "serving"]
