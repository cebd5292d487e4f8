"""The images that exist in the lab: programs of the host under the names people know.

There is no registry here, so a handful of names is built in and every other name is refused with
the list of those that work. Registry, path, tag and digest are accepted and mean nothing.

``LAB_PREVIOUS`` names the folder of another checkout of this project, with its environment
(``.venv``): the image ``static-egress-gateway-previous`` is that one's, for upgrades.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egress_gateway_lab.runtime import programs

PREVIOUS: Final = "LAB_PREVIOUS"
_PROJECT: Final = "static-egress-gateway"
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


def previous() -> Path | None:
    """The other checkout, if one was named."""
    named = os.environ.get(PREVIOUS)
    return Path(named) if named else None


def _project(name: str, description: str, python: str) -> Image:
    return Image(
        name,
        description,
        entrypoint=(python, "-m", "egress_gateway.cli.main"),
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
    )


IMAGES = {
    image.name: image
    for image in (
        Image("nginx", "a web server on port 80", command=(sys.executable, "-I", "-S", _NGINX)),
        Image("curl", "curl, with a shell beside it", command=("curl",), option_program="curl"),
        Image("busybox", "a shell and the usual commands", command=("sh",)),
        _project(_PROJECT, "this project", sys.executable),
        *(
            _project(f"{_PROJECT}-previous", "another checkout", f"{other}/.venv/bin/python")
            for other in [previous()]
            if other
        ),
    )
}

# What people write, for what is built in.
_ALIASES = {"curlimages/curl": "curl", "egress-gateway": _PROJECT}


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
    return ours(line, image)


def ours(line: Sequence[str], image: Image) -> list[str]:
    """A command line as it is started: our command by name is the image's own, in images of others
    this checkout's."""
    if line and line[0] == "egress-gateway":
        found = image if image.name.startswith(_PROJECT) else IMAGES[_PROJECT]
        return [*found.entrypoint, *line[1:]]
    return list(line)
