"""Attacks on the API are tried on both servers, as the API's own contract is."""

from lab.tests.apiserver.conftest import certificates, pytest_generate_tests, run

__all__ = ["certificates", "pytest_generate_tests", "run"]
