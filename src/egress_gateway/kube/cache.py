"""A local copy of a kind that follows the API server and survives its absence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from egress_gateway.kube.client import Client
from egress_gateway.kube.resources import Key, Resource

T = TypeVar("T")


class Cache(Generic[T]):
    """``run()`` it in a task; read it from anywhere in the same event loop.

    Reads never block and never fail: while the server is away they answer the last state.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> None: ...

    def on_change(self, callback: Callable[[Key, T | None, T | None], None]) -> None:
        """``callback(key, old, new)`` after each change: ``old`` None on appearance, ``new``
        None on deletion. Deletions missed while disconnected are reported too. Must not block;
        it usually adds a key to a WorkQueue. Called for objects already present, too."""
        raise NotImplementedError

    def set_index(self, name: str, values: Callable[[T], Iterable[str]]) -> None:
        """Keeps an index: ``by_index(name, value)`` answers the objects for which ``values``
        yields ``value``."""
        raise NotImplementedError

    def by_index(self, name: str, value: str) -> list[T]:
        raise NotImplementedError

    def get(self, namespace: str, name: str) -> T | None:
        raise NotImplementedError

    def values(self) -> list[T]:
        raise NotImplementedError

    def keys(self) -> list[Key]:
        raise NotImplementedError

    async def synced(self) -> None:
        """Returns when the first complete list is in."""
        raise NotImplementedError

    @property
    def is_synced(self) -> bool:
        raise NotImplementedError

    @property
    def seconds_behind(self) -> float:
        """Seconds since the server last proved that it is there (answer, event, bookmark)."""
        raise NotImplementedError

    async def run(self) -> None:
        """Lists and watches until cancelled. Never raises because of the server."""
        raise NotImplementedError
