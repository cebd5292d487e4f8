#!/bin/sh
# The CNI plugin's scanner under sanitizers, by libFuzzer where clang is, else by mutated seeds; and
# every parser of foreign bytes in Python, with a hundredth of the inputs each.
#
#     fuzz.sh [INPUTS]     a million by default
set -eu
cd "$(dirname "$0")/.."
inputs=${1:-1000000}
flags="-g -O1 -std=gnu11 -w -fno-sanitize-recover=all"
mkdir -p build
.venv/bin/python -m tests.fuzz "$((inputs / 100))"
if command -v clang >/dev/null; then
    # shellcheck disable=SC2086
    clang $flags -DLIBFUZZER -fsanitize=fuzzer,address,undefined \
        -o build/fuzz-plugin tests/cni/fuzz/fuzz_plugin.c
    exec build/fuzz-plugin "-runs=$inputs" -len_control=0 -max_len=4096 -print_final_stats=1
fi
# shellcheck disable=SC2086
gcc $flags -fsanitize=address,undefined -o build/fuzz-plugin tests/cni/fuzz/fuzz_plugin.c
exec build/fuzz-plugin "$inputs" "$$"
