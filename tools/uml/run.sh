#!/bin/sh
# Runs a command (default: the data path's tests) inside a kernel that has WireGuard, over this
# machine's own files, which it cannot change. Skipped, loudly, where no such kernel can be had;
# with REQUIRE_KERNEL=1 that is a failure. A kernel that does not run on this processor fails before
# anything else is done. UML_KERNEL names one that is not ours, UML_OPTIONS more words for its
# command line.
#
# KERNEL_PASSED names a file, for the default command: what has passed is added to it when the run
# ends, however it ends, and what it names is not run again. So several short runs make a whole one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

if kernel=${UML_KERNEL:-$("$here/build.sh")}; then :; else
    code=$?
    [ "$code" = 2 ] || exit "$code"
    printf '\n*** SKIPPED: nothing was tested on kernel WireGuard on this machine ***\n\n' >&2
    [ -z "${REQUIRE_KERNEL:-}" ]
    exit
fi

# Of the attacks those that carry packets: they have the mark "root". Agents are killed after each
# 25th of their changes, in place of each fifth: system calls are slow here.
passed=''
if [ $# = 0 ]; then
    set -- env "KILLS_STEP=${KILLS_STEP:-25}" "KILLS_PAIRS=${KILLS_PAIRS:-1}" \
        .venv/bin/python -m pytest -v --color=no -o console_output_style=times -n 0 \
        -p no:cacheprovider -m root tests/datapath tests/node tests/attacks
    passed=${KERNEL_PASSED:-/dev/null}
    touch "$passed"
    while IFS= read -r test; do set -- "$@" --deselect "$test"; done <"$passed"
fi
# Adds to that file what has passed, by what pytest has said so far.
note() {
    [ -z "$passed" ] || sed -nE 's/^(tests\/.*[^ ]) +(PASSED|SKIPPED).*/\1/p' "$work/out" >>"$passed"
}

work=$(mktemp -d)
watching=''
# A second signal, as timeout(1) sends it to the group, does not end this half-way.
trap 'trap "" INT TERM HUP; kill $watching 2>/dev/null || true; note; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
{
    echo "cd '$repository'"
    for word in "$@"; do printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"; done
    echo
} >"$work/job"
echo true >"$work/nothing"
: >"$work/out"

# Its memory is a file of TMPDIR; it wants one that lies in memory.
memory=$work
[ -w /dev/shm ] && memory=/dev/shm

# The script $1 in the kernel, for at most $2 seconds. What it said is in $work/out, its
# exit code in $code, which is empty if the kernel ended before it. In the background, so that a
# signal is heard meanwhile; the kernel ends with this shell, however that ends.
boot() {
    TMPDIR=$memory setpriv --pdeathsig TERM -- timeout -k 5 "$2" "$kernel" mem=2G \
        root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
        init="$here/init.sh" job="$work/$1" umid="kernel-tests-$$" uml_dir="$work/" \
        con=null con0=null,fd:1 con1=null ssl=null ${UML_OPTIONS:-} \
        </dev/null 2>"$work/err" | tee "$work/out" >&3 &
    wait $! || true
    code=$(sed -n 's/^kernel tests: exit code \([0-9]*\).*/\1/p' "$work/out")
}

# What is known of why the kernel ended without an answer.
ended() {
    echo "kernel tests: NOTHING was tested: $1" >&2
    cat "$work/out" "$work/err" | tail -n 20 >&2
    ! grep -q 'fp regs failed' "$work/out" "$work/err" ||
        echo "kernel tests: this processor has more floating point state than the kernel has room for (tools/uml/build.sh, HOST_FP_SIZE)" >&2
    exit 1
}

limit=${UML_BOOT_SECONDS:-120}
exec 3>/dev/null
boot nothing "$limit"
[ "$code" = 0 ] || ended "the kernel does not run on this machine (it had $limit s)"
exec 3>&1
# After so long the command ends as by Ctrl-C, and says what it knows (init.sh); after five minutes
# more the kernel ends.
seconds=${KERNEL_SECONDS:-5400}
setpriv --pdeathsig TERM python3 -I -S -c \
    'import sys, time; time.sleep(int(sys.argv[1])); open(sys.argv[2], "w")' \
    "$seconds" "$work/job.over" >/dev/null 2>&1 &
watching=$!
boot job $((seconds + 300))
[ -n "$code" ] || ended "the kernel ended early"
exit "$code"
