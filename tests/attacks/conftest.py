"""Attacks on the API are tried on both servers, as the API's own contract is."""

from lab.tests.apiserver.conftest import certificates, cluster, pytest_generate_tests, serving

__all__ = ["certificates", "cluster", "pytest_generate_tests", "serving"]
