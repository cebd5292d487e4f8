"""The base of the final image: files of Debian's packages, taken out of them and not installed.

No script of a package runs and no program of the image is executed, so that arm64's is made on
amd64 as amd64's is, and what is made depends on the packages alone: there is one time for all, and
one order. What scripts would have made is written here: the merged ``/usr``, users, one file of
certificates. There is no shell, no package manager and no compiler in it. Scanners find what it is
made of in ``/var/lib/dpkg/status.d``, where they look in images of this kind
(https://github.com/GoogleContainerTools/distroless).
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

WANTED = ("base-files", "ca-certificates", "libnftables1", "python3", "util-linux")
"""What the components need of Debian; what these need comes along."""
LEFT_OUT = frozenset(
    {
        *("debconf", "dpkg", "mawk", "openssl", "perl-base", "readline-common", "tar"),
        *("libaudit1", "libaudit-common", "libpam0g", "libdebconfclient0", "util-linux-extra"),
    }
)
"""What only scripts of packages call, or programs that nobody calls here."""
_FOLDERS = ("doc", "man", "locale", "info", "lintian", "bash-completion", "pixmaps", "perl5", "bug")
_SKIPPED = (
    *(f"usr/share/{name}/*" for name in (*_FOLDERS, "doc-base", "applications", "polkit-1", "gdb")),
    *("usr/lib/valgrind/*", "usr/lib/udev/*", "usr/lib/systemd/*", "etc/cron.*", "etc/init.d/*"),
    *("etc/pam.d/*", "etc/apt/*", "etc/dpkg/*", "var/lib/dpkg/*", "usr/share/binfmts/*"),
)
_KEPT = ("usr/share/doc/*/copyright",)
_MERGED = ("bin", "sbin", "lib", "lib64")
_CERTIFICATES = "usr/share/ca-certificates/mozilla/"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    "nonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_EMPTY = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "root")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link of the tree."""

    member: tarfile.TarInfo
    content: bytes = b""


def control(deb: Path, field: str) -> str:
    """A field of a package, or all of them (``""``)."""
    command = ["dpkg-deb", "--field", str(deb), *([field] if field else [])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build(debs: Path, target: Path, *, epoch: int) -> None:
    """Writes the tree of the packages in folder ``debs`` as a tar, every time being ``epoch``."""
    tree: dict[str, Entry] = {}
    for name in _MERGED:
        _add(tree, _folder(f"usr/{name}"))
        _add(tree, _link(name, f"usr/{name}"))
    for deb in sorted(debs.glob("*.deb")):
        package = control(deb, "Package").strip()
        if package in LEFT_OUT:
            continue
        for entry in _unpacked(deb):
            _add(tree, entry)
        fields = control(deb, "").encode()
        _add(tree, _file(f"var/lib/dpkg/status.d/{package}", fields))
    for entry in _written(tree):
        _add(tree, entry)
    _write(tree, target, epoch)


def _add(tree: dict[str, Entry], entry: Entry) -> None:
    """Folders above come along; a folder never replaces what is there."""
    name = entry.member.name
    above = name.rpartition("/")[0]
    if above and above not in tree:
        _add(tree, _folder(above))
    if not (entry.member.isdir() and name in tree):
        tree[name] = entry


def _unpacked(deb: Path) -> Iterator[Entry]:
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    piped = subprocess.run(command, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(piped.stdout)) as tar:
        for member in tar:
            name = merged(member.name.removeprefix("./").strip("/"))
            if not name or name in _MERGED or skipped(name):
                continue
            member.name = name
            if member.islnk():
                member.linkname = merged(member.linkname.removeprefix("./"))
            opened = tar.extractfile(member) if member.isreg() else None
            yield Entry(member, opened.read() if opened else b"")


def merged(name: str) -> str:
    """Where a file is once ``/bin``, ``/lib`` and their like are links into ``/usr``."""
    first = name.partition("/")[0]
    return f"usr/{name}" if first in _MERGED and "/" in name else name


def skipped(name: str) -> bool:
    wanted = any(fnmatch(name, rule) for rule in _KEPT)
    return not wanted and any(fnmatch(name, rule) for rule in _SKIPPED)


def _written(tree: dict[str, Entry]) -> Iterator[Entry]:
    """What scripts of the packages would have made."""
    for name, text in _FILES.items():
        yield _file(name, text.encode())
    for name in _EMPTY:
        yield _folder(name, 0o1777 if name.endswith("tmp") else 0o755)
    yield _link("var/run", "/run")
    yield _link("var/lock", "/run/lock")
    found = sorted(name for name in tree if name.startswith(_CERTIFICATES) and name[-4:] == ".crt")
    bundle = b"".join(tree[name].content.rstrip(b"\n") + b"\n" for name in found)
    yield _file("etc/ssl/certs/ca-certificates.crt", bundle)


def _folder(name: str, mode: int = 0o755) -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    return Entry(member)


def _link(name: str, target: str) -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    return Entry(member)


def _file(name: str, content: bytes) -> Entry:
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o644, len(content)
    return Entry(member, content)


def _write(tree: dict[str, Entry], target: Path, epoch: int) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in ordered(tree.values()):
            member = entry.member
            member.mode &= 0o1777  # nobody becomes somebody else here
            member.mtime, member.pax_headers = epoch, {}
            member.uname = member.gname = ""
            tar.addfile(member, io.BytesIO(entry.content) if member.isreg() else None)


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """By name; hard links after what they link to."""
    return sorted(entries, key=lambda entry: (entry.member.islnk(), entry.member.name))
