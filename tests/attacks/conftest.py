"""Attacks on the API are tried on both servers, as the API's own contract is."""

from lab.tests.apiserver.conftest import certificates, cluster, pytest_generate_tests, serving
from tests.deploy.conftest import clients

__all__ = ["certificates", "clients", "cluster", "pytest_generate_tests", "serving"]
