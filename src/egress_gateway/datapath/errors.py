"""What can go wrong in the data path. One line each: the object, the cause, what mends it."""

from __future__ import annotations

import os

from egress_gateway.service.errors import ExpectedError
from egress_gateway.service.errors import understood as understood


class DatapathError(ExpectedError):
    """A kernel object could not be read or changed."""


class NoSuchNamespace(DatapathError):
    """The network namespace is gone: its pod has been deleted."""


class NoSuchLink(DatapathError):
    """The link is gone, or was never there."""


class PortInUse(DatapathError):
    """Another socket of the node holds the UDP port."""


class KernelRefused(DatapathError):
    """A system call or netlink request was refused; ``errno`` says how."""

    def __init__(self, doing: str, errno: int, detail: str = "") -> None:
        self.errno = errno
        reason = detail or os.strerror(errno)
        mend = "; run with CAP_NET_ADMIN (privileged on Kubernetes)" if errno == 1 else ""
        super().__init__(f"{doing}: {reason}{mend}")
