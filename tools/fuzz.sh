#!/bin/sh
# The CNI plugin's scanner under sanitizers, by libFuzzer, which begins with the inputs in
# tests/cni/fuzz/corpus.txt and keeps what leads further; and every parser of foreign bytes in
# Python, with a hundredth of the inputs each.
#
#     fuzz.sh [INPUTS]     a million by default
set -eu
cd "$(dirname "$0")/.."
inputs=${1:-1000000}
rm -rf build/corpus build/corpus-kept
.venv/bin/python -m tests.fuzz "$((inputs / 100))"
clang -g -O1 -std=gnu11 -w -fno-sanitize-recover=all -DLIBFUZZER \
    -fsanitize=fuzzer,address,undefined -o build/fuzz-plugin tests/cni/fuzz/fuzz_plugin.c
.venv/bin/python -m tests.cni.fuzz.corpus unpack build/corpus
.venv/bin/python -m tests.cni.fuzz.corpus unpack build/corpus-kept
build/fuzz-plugin "-runs=$inputs" -len_control=0 -max_len=1024 -print_final_stats=1 build/corpus
# What reaches more than those that there were is added to them: commit the file then.
build/fuzz-plugin -merge=1 -max_len=1024 build/corpus-kept build/corpus
.venv/bin/python -m tests.cni.fuzz.corpus pack build/corpus-kept
