"""Which HTTP proxy leads to an API server of a kubeconfig, as kubectl chooses it.

The cluster's ``proxy-url`` counts, else ``HTTPS_PROXY`` and ``NO_PROXY`` of the environment
(https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config): servers of this machine never take the
environment's. Components in a pod take none.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from egress_gateway.service.errors import OperatorError

_KINDS: Final = ("http", "https")
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyError(OperatorError):
    """The proxy cannot be used; says why."""


def chosen(server: str, given: str | None) -> str | None:
    """The proxy's URL; None: there is none. ``given`` is the cluster's own. Raises ``ProxyError``.

    NB: no message quotes the URL: it may hold a password."""
    found = given or _environments(server)
    if not found:
        return None
    try:
        parts = urlsplit(found if "://" in found else f"http://{found}")
        usable = parts.hostname and parts.port != 0
    except ValueError:
        raise ProxyError(f"the proxy to {server} is no http://HOST:PORT") from None
    if parts.scheme not in _KINDS:
        raise ProxyError(
            f"the proxy to {server} is a {parts.scheme} one; only http and https are understood: "
            "`kubectl proxy` and --kubeconfig lead there without"
        )
    if not usable:
        raise ProxyError(f"the proxy to {server} names no host")
    return parts.geturl()


def _environments(server: str) -> str | None:
    parts = urlsplit(server)
    host, address = parts.hostname or "", _address(parts.hostname or "")
    if host == "localhost" or (address and address.is_loopback):
        return None
    words = [word.strip().lower() for word in _variable("NO_PROXY").split(",")]
    if any(_means(word, host, address, parts.port) for word in words if word):
        return None
    return _variable(f"{parts.scheme.upper()}_PROXY")


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower()) or ""


def _means(word: str, host: str, address: Address | None, port: int | None) -> bool:
    """Whether a word of ``NO_PROXY`` means the server: a domain with all below it (those below it
    alone, with a dot first), an address, a network, each of the first two perhaps with a port."""
    name, _, number = word.rpartition(":")
    if number.isdigit() and name and (":" not in name or name.endswith("]")):
        return int(number) == (port or 443) and _means(name, host, address, port)
    if address:
        try:
            return address in ipaddress.ip_network(word.strip("[]"), strict=False)
        except ValueError:
            return word == "*"
    word = word.removeprefix("*")
    return word in ("", host) or host.endswith(word if word.startswith(".") else f".{word}")


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
