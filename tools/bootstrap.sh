#!/bin/sh
# Everything between a bare Debian/Ubuntu machine and `uv run`: system packages by name, uv from
# PyPI in a folder of the project, the locked environment. Safe to run again; quick when nothing is missing.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || { say "python3 is missing: apt-get install python3"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "Python 3.11 or later is needed; $python is $("$python" -V). Set PYTHON=/path/to/python3.11"; exit 1; }

# Package lists are per tool: name of a file that proves the package is there.
missing=""
need() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need ip iproute2
need nft nftables
need conntrack conntrack
need curl curl
need unshare util-linux
need wireguard-go wireguard-go
need /usr/lib/cni/host-local containernetworking-plugins
"$python" -c 'import ctypes; ctypes.CDLL("libnftables.so.1")' 2>/dev/null || missing="$missing libnftables1"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    say "installing system packages:$missing"
    [ "$(id -u)" = 0 ] || { say "root is needed for that: sudo apt-get install --no-install-recommends$missing"; exit 1; }
    command -v apt-get >/dev/null || { say "no apt-get here; install these by hand:$missing"; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 ||
        { apt-get update -qq; apt-get install -qq -y --no-install-recommends $missing >/dev/null; }
fi

if [ ! -x .tools/bin/uv ]; then
    say "installing uv"
    "$python" -m venv .tools
    .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
fi
export UV_PYTHON="${PYTHON:-$python}"
[ -d .venv ] || say "installing Python packages"
# Bytecode now and once: agents start in containers whose root is read-only, and compiling the
# Azure models anew would cost each start of the controller four seconds and 200 MB.
.tools/bin/uv sync --quiet --locked --compile-bytecode "$@"
.venv/bin/python -m compileall -q src lab/src
