"""Fixtures of more than one folder."""

from tests.kube.real import real_plane

__all__ = ["real_plane"]
