#!/bin/sh
# Everything between a bare Debian or Ubuntu machine and a make target: system packages by name
# (packages.toml), uv from PyPI in a folder of the project, the locked environment. Safe to run
# again; quick when nothing is missing.
#
#     bootstrap.sh TARGET [OPTION OF UV SYNC]...
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

target=${1:?a target}
if [ "$target" = run ] && [ "$(id -u)" -ne 0 ]; then
    say "the lab makes network namespaces, which needs root: sudo make demo"
    exit 1
fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null || { say "python3 is missing: apt-get install python3"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "Python 3.11 or later is needed; $python is $("$python" -V). Set PYTHON=/path/to/python3.11"; exit 1; }

"$python" tools/packages.py "$target"
shift

if [ ! -x .tools/bin/uv ]; then
    say "installing uv"
    "$python" -m venv .tools
    .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
fi
export UV_PYTHON="${PYTHON:-$python}"
# uv gives an interpreter one minute to start, and calls the rest a fault: at a load of 30 it takes
# longer.
export UV_COMPILE_BYTECODE_TIMEOUT="${UV_COMPILE_BYTECODE_TIMEOUT:-900}"
[ -d .venv ] || say "installing Python packages"
# Bytecode now and once: agents start in containers whose root is read-only, and compiling the
# Azure models anew would cost each start of the controller four seconds and 200 MB.
.tools/bin/uv sync --quiet --locked --compile-bytecode "$@"
.venv/bin/python -m compileall -q src lab/src
# What runs tunnels, runs the current wireguard-go: built once. Debian's serves without it.
case $target in run | test | bench | kube | azure-cli)
    [ -e /sys/module/wireguard ] || .venv/bin/python tools/wireguard/build.py >/dev/null || true ;;
esac
