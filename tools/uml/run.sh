#!/bin/sh
# Runs a command (default: the data path's tests) inside a kernel that has WireGuard, over this
# machine's own files, which it cannot change. Skipped, loudly, where no such kernel can be had;
# with REQUIRE_KERNEL=1 that is a failure.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

if kernel=$("$here/build.sh"); then :; else
    code=$?
    [ "$code" = 2 ] || exit "$code"
    printf '\n*** SKIPPED: nothing was tested on kernel WireGuard on this machine ***\n\n' >&2
    [ -z "${REQUIRE_KERNEL:-}" ]
    exit
fi

# Of the attacks those that carry packets: they have the mark "root".
[ $# -gt 0 ] || set -- .venv/bin/python -m pytest -q -n 0 -p no:cacheprovider -m root \
    tests/datapath tests/node tests/attacks
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    echo "cd '$repository'"
    echo "export EGRESS_GATEWAY_TEST_WIREGUARD=kernel PYTHONDONTWRITEBYTECODE=1"
    for word in "$@"; do printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"; done
    echo
} >"$work/job"

# Its memory is a file of TMPDIR; it wants one that lies in memory.
memory=$work
[ -w /dev/shm ] && memory=/dev/shm
# In the background, so that a signal is heard meanwhile; the kernel ends with this shell, however
# that ends.
trap 'exit 130' INT
trap 'exit 143' TERM HUP
TMPDIR=$memory setpriv --pdeathsig TERM -- "$kernel" mem=2G root=/dev/root rootfstype=hostfs \
    rootflags=/ ro quiet init="$here/init.sh" job="$work/job" umid="kernel-tests-$$" \
    uml_dir="$work/" con=null con0=null,fd:1 con1=null ssl=null \
    </dev/null 2>"$work/err" | tee "$work/out" &
wait $! || true
code=$(sed -n 's/^kernel tests: exit code \([0-9]*\).*/\1/p' "$work/out")
if [ -z "$code" ]; then
    code=1
    echo "kernel tests: the kernel ended early" >&2
    tail -20 "$work/err" >&2
    ! grep -q 'fp regs failed' "$work/out" "$work/err" ||
        echo "kernel tests: NOTHING was tested: this processor has more floating point state than the kernel has room for (tools/uml/build.sh, HOST_FP_SIZE)" >&2
fi
exit "$code"
