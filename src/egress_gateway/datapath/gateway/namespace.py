"""The gateway's namespace: it comes and goes, and no descriptor of ours keeps it alive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.netns import NetNS

NAMESPACE: Final = "ns-static-egress-gateway"


class GatewayNamespace:
    """The namespace ``name`` below ``directory``."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory

    @property
    def path(self) -> Path:
        """The file that holds the namespace: as ``ip netns`` has it."""
        return self._directory / self._name

    @property
    def exists(self) -> bool:
        """Whether the file is a namespace now. An empty file that a crash left is none."""
        return netns.exists(self._name, directory=self._directory)

    def create(self) -> None:
        """Raises ``DatapathError``."""
        netns.create(self._name, directory=self._directory).close()

    def delete(self) -> None:
        """Nothing if there is none."""
        netns.delete(self._name, directory=self._directory)

    @contextlib.contextmanager
    def open(self) -> Iterator[NetNS]:
        """Raises ``NoSuchNamespace``."""
        with NetNS.open(self.path) as namespace:
            yield namespace

    @contextlib.contextmanager
    def if_there(self) -> Iterator[NetNS | None]:
        """None if there is none."""
        if not self.exists:
            yield None
            return
        with self.open() as namespace:
            yield namespace
