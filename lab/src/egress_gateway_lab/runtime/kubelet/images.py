"""The images that exist in the lab: programs of the host under the names people know.

There is no registry here, so a handful of names is built in and every other name is refused with
the list of those that work. Registry, path, tag and digest are accepted and mean nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egress_gateway_lab.runtime import programs

_NGINX = str(Path(programs.__file__).with_name("nginx.py"))


@dataclass(frozen=True, slots=True)
class Image:
    """``entrypoint`` and ``command`` as in an image's configuration. ``prefix``: programs that
    the entrypoint starts by name stand for themselves (see ``argv``)."""

    name: str
    description: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    option_program: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


IMAGES = {
    image.name: image
    for image in (
        Image("nginx", "a web server on port 80", command=(sys.executable, "-I", "-S", _NGINX)),
        Image("curl", "curl, with a shell beside it", command=("curl",), option_program="curl"),
        Image("busybox", "a shell and the usual commands", command=("sh",)),
        Image(
            "static-egress-gateway",
            "this project",
            entrypoint=(sys.executable, "-m", "egress_gateway.cli.main"),
            env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        ),
    )
}

# What people write, for what is built in.
_ALIASES = {"curlimages/curl": "curl", "egress-gateway": "static-egress-gateway"}


class UnknownImage(LookupError):
    """There is no such image; the message lists those that work."""

    def __init__(self, reference: str) -> None:
        names = ", ".join(sorted(IMAGES))
        super().__init__(
            f'failed to pull image "{reference}": the lab has no registry; built-in images: {names}'
        )


def find(reference: str) -> Image:
    """The image behind a reference such as ``docker.io/library/nginx:1.27@sha256:…``.
    Raises ``UnknownImage``."""
    name = reference.split("@")[0].rsplit("/", 1)[-1].split(":")[0]
    image = IMAGES.get(_ALIASES.get(name, name))
    if image is None:
        raise UnknownImage(reference)
    return image


def argv(image: Image, command: Sequence[str], args: Sequence[str]) -> list[str]:
    """The command line of a container: ``command`` replaces the entrypoint, ``args`` the
    command, as Kubernetes defines it."""
    if command:
        line = [*command, *args]
    else:
        line = [*image.entrypoint, *(args or image.command)]
        if image.option_program and args and args[0].startswith(("-", "http:", "https:")):
            line = [image.option_program, *args]
    return ours(line)


def ours(line: Sequence[str]) -> list[str]:
    """A command line as it is started: our command by name is this checkout's."""
    if line and line[0] == "egress-gateway":
        return [*IMAGES["static-egress-gateway"].entrypoint, *line[1:]]
    return list(line)
